using System.Buffers.Binary;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The adapter's small learning switch: a frame goes to the port that its destination was last seen at, else to all others. Used by the
/// adapter's thread only. Frames come from guests and are not trusted: the table is bounded, and multicast sources are not learned.
/// </summary>
internal sealed class AdapterSwitch
{
    private const int MaxAddresses = 4096;
    private readonly Dictionary<ulong, SwitchPort> _ports = [];

    public void Forward(SwitchPort from, SwitchPort[] ports, ReadOnlySpan<byte> frame)
    {
        var destination = Address(frame);
        var source = Address(frame[6..]);
        if (!IsMulticast(source) && (_ports.Count < MaxAddresses || _ports.ContainsKey(source)))
            _ports[source] = from;
        if (!IsMulticast(destination) && _ports.TryGetValue(destination, out var to) && !to.IsGone)
        {
            if (to != from)
                to.Deliver(frame);
            return;
        }
        foreach (var port in ports)
        {
            if (port != from)
                port.Deliver(frame);
        }
    }

    /// <summary>Forgets the addresses of ports that are gone.</summary>
    public void Sweep()
    {
        foreach (var (address, at) in _ports)
        {
            if (at.IsGone)
                _ports.Remove(address);
        }
    }

    private static ulong Address(ReadOnlySpan<byte> bytes) =>
        ((ulong)BinaryPrimitives.ReadUInt16BigEndian(bytes) << 32) | BinaryPrimitives.ReadUInt32BigEndian(bytes[2..]);

    // The lowest bit of the first byte (IEEE 802.3, 3.2.3).
    private static bool IsMulticast(ulong address) => (address >> 40 & 1) != 0;
}
