using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;

namespace Virtbus.Tests.Subsystems.Net;

/// <summary>A driver that keeps what it is given, and notes what it is told.</summary>
internal sealed class FakeNetOps : INetOps
{
    public List<string> Calls { get; } = [];

    public List<(int Queue, byte[] Bytes, FrameOffload Offload)> Sent { get; } = [];

    public Dictionary<int, int> Flushed { get; } = [];

    /// <summary>How many frames it takes more.</summary>
    public int Room { get; set; } = int.MaxValue;

    public VirtbusException? Refuses { get; set; }

    /// <summary>What it refuses: calls that begin so.</summary>
    public string Refused { get; set; } = "";

    public ValueTask OpenAsync(NetDevice device) => Note("open");

    public ValueTask StopAsync(NetDevice device) => Note("stop");

    public ValueTask SetPromiscuousAsync(NetDevice device, bool promiscuous) => Note($"promiscuous {promiscuous}");

    public ValueTask SetAddressAsync(NetDevice device, ulong address) => Note($"address {address:x}");

    public ValueTask SetVlanAsync(NetDevice device, ushort vlan, bool wanted) => Note($"vlan {vlan} {wanted}");

    public bool TryTransmit(int queue, in EthernetFrame frame, out Fault fault)
    {
        fault = Room-- > 0 ? Fault.None : new Fault(Errno.ENOBUFS, "full");
        if (fault == Fault.None)
            Sent.Add((queue, frame.Bytes.ToArray(), frame.Offload));
        return fault == Fault.None;
    }

    public void Flush(int queue) => Flushed[queue] = Flushed.GetValueOrDefault(queue) + 1;

    private ValueTask Note(string call)
    {
        Calls.Add(call);
        return Refuses is { } refusal && call.StartsWith(Refused, StringComparison.Ordinal) ? throw refusal : default;
    }
}
