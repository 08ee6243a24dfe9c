using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>A sink that keeps what it is given.</summary>
internal sealed class KeepingSink : IFrameSink
{
    public List<byte[]> Frames { get; } = [];

    public FrameOffload Last { get; private set; }

    public int Missed { get; private set; }

    public int Flushes { get; private set; }

    public bool Keeps { get; set; } = true;

    public OffloadKinds Takes { get; set; }

    public Action<int>? Delivered { get; set; }

    public void Deliver(in EthernetFrame frame)
    {
        Assert.True(frame.IsValid);
        Last = frame.Offload;
        if (Keeps)
            Frames.Add(frame.Bytes.ToArray());
        Delivered?.Invoke(frame.Length);
    }

    public void Miss() => Missed++;

    public void Flush() => Flushes++;
}
