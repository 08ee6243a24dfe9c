using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Virtio;

namespace FunctionMove;

/// <summary>The registers of a virtio function, where its capabilities say (VIRTIO 1.3, 4.1.4).</summary>
internal sealed class VirtioFunctionRegisters : IVirtioRegisterAccess
{
    // As in linux/vfio.h, and in linux/pci_regs.h.
    private const uint ConfigRegion = 7;
    private const int ConfigSize = 256, CapabilityList = 0x34, VendorCapability = 9;
    private const ulong CommandRegister = 4;
    private const byte MemoryDecoding = 1 << 1;
    private readonly VfioUserClient _function;
    private readonly Dictionary<byte, VirtioPciCapability> _places = [];

    /// <exception cref="VirtbusException">ENODEV: the function is no virtio device.</exception>
    public VirtioFunctionRegisters(VfioUserClient function)
    {
        _function = function;
        var config = new byte[ConfigSize];
        Check(function.TryRead(ConfigRegion, 0, config, out var fault), fault);
        for (int at = config[CapabilityList]; at != 0; at = config[at + 1])
        {
            if (config[at] == VendorCapability && VirtioPciCapability.TryRead(at, config.AsSpan(at, Math.Min((int)config[at + 2], VirtioPciCapability.MaxSize)), out var place))
                _places.TryAdd(place.Type, place);
        }

        if (!_places.ContainsKey(VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG))
            throw new VirtbusException(Errno.ENODEV, "A function is no virtio device. Name the socket of one.");
        Check(function.TryWrite(ConfigRegion, CommandRegister, [MemoryDecoding, 0], out fault), fault);
    }

    public void Read(int offset, Span<byte> destination) => Read(VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG, offset, destination);

    public void Write(int offset, ReadOnlySpan<byte> source) => Write(VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG, offset, source);

    public void ReadConfig(int offset, Span<byte> destination) => Read(VirtioPciCapability.VIRTIO_PCI_CAP_DEVICE_CFG, offset, destination);

    public void WriteConfig(int offset, ReadOnlySpan<byte> source) => Write(VirtioPciCapability.VIRTIO_PCI_CAP_DEVICE_CFG, offset, source);

    private void Read(byte type, int offset, Span<byte> destination) =>
        Check(_function.TryRead(_places[type].Bar, _places[type].Offset + (ulong)offset, destination, out var fault), fault);

    private void Write(byte type, int offset, ReadOnlySpan<byte> source) =>
        Check(_function.TryWrite(_places[type].Bar, _places[type].Offset + (ulong)offset, source, out var fault), fault);

    private static void Check(bool done, Fault fault)
    {
        if (!done)
            throw new VirtbusException(fault.Errno, $"A function's registers cannot be reached: {fault.Errno}, {fault.Message}. Look into its server's log.");
    }
}
