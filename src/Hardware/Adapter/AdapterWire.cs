namespace Virtbus.Hardware.Adapter;

/// <summary>The adapter's way to the outside: one port of its switch. Frames of the host go in on one thread of the host's.</summary>
public sealed class AdapterWire : IDisposable
{
    private readonly AdapterEngine _engine;
    private readonly Port _port;

    internal AdapterWire(AdapterEngine engine, int depth, Action<ReadOnlySpan<byte>> send)
    {
        _engine = engine;
        _port = new Port(engine, depth, send);
        engine.Common.Join(_port);
    }

    /// <summary>Takes a frame from outside. One thread at a time.</summary>
    /// <param name="frame">The frame, copied.</param>
    /// <returns>False when too many wait or the length is not one that Ethernet has: it is dropped, as on a wire.</returns>
    public bool TryReceive(ReadOnlySpan<byte> frame)
    {
        if (!_port.Waiting.TryWrite(frame))
            return false;
        _port.Schedule();
        return true;
    }

    /// <summary>Unplugs the wire. When it returns, nothing is sent any more. Not to be called from what sends.</summary>
    public void Dispose()
    {
        lock (_port.Gate)
            _engine.Leave(_port);
    }

    private sealed class Port(AdapterEngine engine, int depth, Action<ReadOnlySpan<byte>> send) : SwitchPort(engine.Common)
    {
        private const int Batch = 64;

        internal Lock Gate { get; } = new();

        internal FrameRing Waiting { get; } = new(depth);

        internal override bool Run(AdapterLane lane)
        {
            for (var i = 0; i < Batch; i++)
            {
                if (!Waiting.TryPeek(out var frame))
                    return false;
                if (!IsGone && engine.IsLinkUp)
                    engine.Forward(this, frame);
                Waiting.Release();
            }
            return true;
        }

        internal override void Deliver(ReadOnlySpan<byte> frame)
        {
            lock (Gate)
            {
                if (!IsGone && engine.IsLinkUp)
                    send(frame);
            }
        }

        // Nobody counts what a wire loses.
        internal override void Miss()
        {
        }

        internal override void Flush()
        {
        }
    }
}
