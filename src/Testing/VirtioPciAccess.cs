using System.Buffers.Binary;
using Virtbus.Pci;
using Virtbus.Virtio;

namespace Virtbus.Testing;

/// <summary>
/// The registers of a virtio function as its driver finds them: by the vendor-specific capabilities of config space (VIRTIO 1.3, 4.1.4). Any thread.
/// </summary>
public sealed class VirtioPciAccess : IVirtioRegisterAccess
{
    private const byte CommonCfg = 1;
    private const byte NotifyCfg = 2;
    private const byte IsrCfg = 3;
    private const byte DeviceCfg = 4;
    private const byte PciCfg = 5;
    private const byte SharedMemoryCfg = 8;

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
        Span<byte> bytes = stackalloc byte[24];
        for (var at = ConfigByte(PciHeader.PCI_CAPABILITY_LIST); at != 0; at = ConfigByte(at + 1))
        {
            if (ConfigByte(at) != PciCapabilityId.PCI_CAP_ID_VNDR)
                continue;
            function.ReadConfig(at, bytes[..Math.Min(bytes.Length, ConfigByte(at + 2))]);
            if (bytes[3] == SharedMemoryCfg)
            {
                // The lower halves, and the upper ones behind them.
                var (offset, length) = (BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]), BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]));
                _regions.Add(new VirtioPciRegion(
                    bytes[5],
                    bytes[4],
                    offset | ((ulong)BinaryPrimitives.ReadUInt32LittleEndian(bytes[16..]) << 32),
                    length | ((ulong)BinaryPrimitives.ReadUInt32LittleEndian(bytes[20..]) << 32)));
                continue;
            }

            var place = new VirtioPciPlace(bytes[4], BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]), BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]), at);
            _places.TryAdd(bytes[3], place);
            if (bytes[3] == NotifyCfg)
                _multiplier = BinaryPrimitives.ReadUInt32LittleEndian(bytes[16..]);
        }

        foreach (var needed in (ReadOnlySpan<byte>)[CommonCfg, NotifyCfg, IsrCfg, PciCfg])
        {
            if (!_places.ContainsKey(needed))
                throw new ExpectationException($"The function has no virtio capability of type {needed}.");
        }
    }

    /// <summary>The common configuration.</summary>
    public VirtioPciPlace Common => _places[CommonCfg];

    /// <summary>The notifications.</summary>
    public VirtioPciPlace Notifications => _places[NotifyCfg];

    /// <summary>The ISR.</summary>
    public VirtioPciPlace Isr => _places[IsrCfg];

    /// <summary>The configuration of the device's type; null when it has none.</summary>
    public VirtioPciPlace? Config => _places.TryGetValue(DeviceCfg, out var place) ? place : null;

    /// <summary>The window in config space.</summary>
    public VirtioPciPlace Window => _places[PciCfg];

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
