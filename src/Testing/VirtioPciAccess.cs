using System.Buffers.Binary;
using Virtbus.Pci;
using Virtbus.Virtio;

namespace Virtbus.Testing;

/// <summary>
/// The registers of a virtio function as its driver finds them: by the vendor-specific capabilities of config space (VIRTIO 1.3, 4.1.4). Any thread.
/// </summary>
public sealed class VirtioPciAccess : IVirtioRegisterAccess
{

    private readonly IPciFunction _function;
    private readonly Dictionary<byte, VirtioPciPlace> _places = [];
    private readonly List<VirtioPciRegion> _regions = [];
    private readonly uint _multiplier;

    /// <summary>Finds the registers of a function.</summary>
    /// <param name="function">The function; it stays the caller's.</param>
    /// <exception cref="ExpectationException">A structure that has to be there is not.</exception>
    public VirtioPciAccess(IPciFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        _function = function;
        Span<byte> bytes = stackalloc byte[VirtioPciCapability.MaxSize];
        for (var at = ConfigByte(PciHeader.PCI_CAPABILITY_LIST); at != 0; at = ConfigByte(at + 1))
        {
            if (ConfigByte(at) != PciCapabilityId.PCI_CAP_ID_VNDR)
                continue;
            var length = Math.Min(bytes.Length, ConfigByte(at + 2));
            function.ReadConfig(at, bytes[..length]);
            if (!VirtioPciCapability.TryRead(at, bytes[..length], out var found))
                continue;
            if (found.Type == VirtioPciCapability.VIRTIO_PCI_CAP_SHARED_MEMORY_CFG)
            {
                _regions.Add(new VirtioPciRegion(found.Id, found.Bar, found.Offset, found.Length));
                continue;
            }

            _places.TryAdd(found.Type, new VirtioPciPlace(found.Bar, (uint)found.Offset, (uint)found.Length, at));
            if (found.Type == VirtioPciCapability.VIRTIO_PCI_CAP_NOTIFY_CFG)
                _multiplier = found.Multiplier;
        }

        foreach (var needed in (ReadOnlySpan<byte>)[VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG, VirtioPciCapability.VIRTIO_PCI_CAP_NOTIFY_CFG, VirtioPciCapability.VIRTIO_PCI_CAP_ISR_CFG, VirtioPciCapability.VIRTIO_PCI_CAP_PCI_CFG])
        {
            if (!_places.ContainsKey(needed))
                throw new ExpectationException($"The function has no virtio capability of type {needed}.");
        }
    }

    /// <summary>The common configuration.</summary>
    public VirtioPciPlace Common => _places[VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG];

    /// <summary>The notifications.</summary>
    public VirtioPciPlace Notifications => _places[VirtioPciCapability.VIRTIO_PCI_CAP_NOTIFY_CFG];

    /// <summary>The ISR.</summary>
    public VirtioPciPlace Isr => _places[VirtioPciCapability.VIRTIO_PCI_CAP_ISR_CFG];

    /// <summary>The configuration of the device's type; null when it has none.</summary>
    public VirtioPciPlace? Config => _places.TryGetValue(VirtioPciCapability.VIRTIO_PCI_CAP_DEVICE_CFG, out var place) ? place : null;

    /// <summary>The window in config space.</summary>
    public VirtioPciPlace Window => _places[VirtioPciCapability.VIRTIO_PCI_CAP_PCI_CFG];

    /// <summary>The memory that the device shares, region by region.</summary>
    public IReadOnlyList<VirtioPciRegion> SharedMemory => _regions;

    /// <inheritdoc/>
    public void Read(int offset, Span<byte> destination) => _function.ReadBar(Common.Bar, Common.Offset + (uint)offset, destination);

    /// <inheritdoc/>
    public void Write(int offset, ReadOnlySpan<byte> source) => _function.WriteBar(Common.Bar, Common.Offset + (uint)offset, source);

    /// <inheritdoc/>
    public void ReadConfig(int offset, Span<byte> destination)
    {
        if (Config is { } place)
            _function.ReadBar(place.Bar, place.Offset + (uint)offset, destination);
    }

    /// <inheritdoc/>
    public void WriteConfig(int offset, ReadOnlySpan<byte> source)
    {
        if (Config is { } place)
            _function.WriteBar(place.Bar, place.Offset + (uint)offset, source);
    }

    /// <summary>Reads the ISR, which clears it.</summary>
    public byte TakeInterrupts()
    {
        Span<byte> value = stackalloc byte[1];
        _function.ReadBar(Isr.Bar, Isr.Offset, value);
        return value[0];
    }

    /// <summary>Tells the device of buffers in a queue.</summary>
    /// <param name="queue">Its number, which is its place too: so the function says it, and a driver asks queue_notify_off.</param>
    public void Notify(int queue)
    {
        Span<byte> value = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(value, (ushort)queue);
        _function.WriteBar(Notifications.Bar, Notifications.Offset + ((uint)queue * _multiplier), value);
    }

    private byte ConfigByte(int offset)
    {
        Span<byte> value = stackalloc byte[1];
        _function.ReadConfig(offset, value);
        return value[0];
    }
}
