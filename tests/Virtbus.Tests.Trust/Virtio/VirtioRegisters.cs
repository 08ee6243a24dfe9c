using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Virtio;

namespace Virtbus.Tests.Trust;

/// <summary>The registers of a virtio function over vfio-user, as its driver finds them by the capabilities (VIRTIO 1.3, 4.1.4).</summary>
internal sealed class VirtioRegisters : IVirtioRegisterAccess
{
    private const byte FirstCapability = 0x34;
    private const byte VendorCapability = 9;

    private readonly VfioUserClient _client;
    private readonly Dictionary<byte, VirtioPciCapability> _places = [];

    public VirtioRegisters(VfioUserClient client)
    {
        _client = client;
        var config = new byte[256];
        Read(UserDevice.ConfigRegion, 0, config);
        for (int at = config[FirstCapability]; at != 0; at = config[at + 1])
        {
            if (config[at] == VendorCapability && VirtioPciCapability.TryRead(at, config.AsSpan(at, Math.Min((int)config[at + 2], VirtioPciCapability.MaxSize)), out var found))
                _places.TryAdd(found.Type, found);
        }
    }

    public void Read(int offset, Span<byte> destination) => Read(VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG, offset, destination);

    public void Write(int offset, ReadOnlySpan<byte> source) => Write(VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG, offset, source);

    public void ReadConfig(int offset, Span<byte> destination) => Read(VirtioPciCapability.VIRTIO_PCI_CAP_DEVICE_CFG, offset, destination);

    public void WriteConfig(int offset, ReadOnlySpan<byte> source) => Write(VirtioPciCapability.VIRTIO_PCI_CAP_DEVICE_CFG, offset, source);

    /// <summary>Tells the device of buffers in a queue, whose place is its number.</summary>
    public void Notify(ushort queue)
    {
        Span<byte> value = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(value, queue);
        Write(VirtioPciCapability.VIRTIO_PCI_CAP_NOTIFY_CFG, (int)(queue * _places[VirtioPciCapability.VIRTIO_PCI_CAP_NOTIFY_CFG].Multiplier), value);
    }

    private void Read(byte type, int offset, Span<byte> destination) => Read(_places[type].Bar, _places[type].Offset + (ulong)offset, destination);

    private void Read(uint region, ulong offset, Span<byte> destination) => Demand(_client.TryRead(region, offset, destination, out var fault), fault);

    private void Write(byte type, int offset, ReadOnlySpan<byte> source) =>
        Demand(_client.TryWrite(_places[type].Bar, _places[type].Offset + (ulong)offset, source, out var fault), fault);

    private static void Demand(bool done, Fault fault)
    {
        if (!done)
            throw new DeviceFailure($"{fault.Errno}: {fault.Message}");
    }
}
