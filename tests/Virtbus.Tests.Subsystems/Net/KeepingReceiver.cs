using Virtbus.Ethernet;
using Virtbus.Subsystems.Net;

namespace Virtbus.Tests.Subsystems.Net;

/// <summary>Keeps what an interface receives.</summary>
internal sealed class KeepingReceiver(OffloadKinds takes = OffloadKinds.None) : IFrameReceiver
{
    public OffloadKinds Takes => takes;

    public List<(int Queue, byte[] Bytes, FrameOffload Offload)> Frames { get; } = [];

    public List<int> Ends { get; } = [];

    public void Receive(NetDevice device, int queue, in EthernetFrame frame) => Frames.Add((queue, frame.Bytes.ToArray(), frame.Offload));

    public void EndBatch(NetDevice device, int queue) => Ends.Add(queue);
}
