using System.Buffers.Binary;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The memory of the adapter's small learning switch: at which port an address was last seen. Safe from any thread. Frames come from guests
/// and are not trusted: the table is bounded, and multicast sources are not learned.
/// </summary>
internal sealed class AdapterSwitch
{
    private const int MaxAddresses = 4096;
    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, SwitchPort> _ports = [];

    /// <summary>Notes where a frame came from, and looks up where it goes to.</summary>
    /// <returns>The port; null for all.</returns>
    public SwitchPort? Learn(SwitchPort from, ReadOnlySpan<byte> frame)
    {
        var source = Address(frame[6..]);
        lock (_lock)
        {
            if (!IsMulticast(source) && !from.IsGone && (_ports.Count < MaxAddresses || _ports.ContainsKey(source)))
                _ports[source] = from;
            return FindLocked(frame);
        }
    }

    /// <summary>Looks up where a frame goes to.</summary>
    /// <returns>The port; null for all.</returns>
    public SwitchPort? Find(ReadOnlySpan<byte> frame)
    {
        lock (_lock)
            return FindLocked(frame);
    }

    /// <summary>Forgets the addresses of ports that are gone.</summary>
    public void Sweep()
    {
        lock (_lock)
        {
            foreach (var (address, at) in _ports)
            {
                if (at.IsGone)
                    _ports.Remove(address);
            }
        }
    }

    private SwitchPort? FindLocked(ReadOnlySpan<byte> frame)
    {
        var destination = Address(frame);
        return !IsMulticast(destination) && _ports.TryGetValue(destination, out var to) && !to.IsGone ? to : null;
    }

    private static ulong Address(ReadOnlySpan<byte> bytes) =>
        ((ulong)BinaryPrimitives.ReadUInt16BigEndian(bytes) << 32) | BinaryPrimitives.ReadUInt32BigEndian(bytes[2..]);

    // The lowest bit of the first byte (IEEE 802.3, 3.2.3).
    private static bool IsMulticast(ulong address) => (address >> 40 & 1) != 0;
}
