using Virtbus.Ethernet;

namespace Virtbus.Hardware.Adapter;

/// <summary>The adapter's way to the outside: one port of its switch. Frames of the host go in on one thread of the host's.</summary>
public sealed class AdapterWire : IDisposable
{
    private readonly AdapterEngine _engine;
    private readonly Port _port;

    internal AdapterWire(AdapterEngine engine, int depth, FrameHandler send)
    {
        _engine = engine;
        _port = new Port(engine, depth, send);
        engine.Common.Switching.Join(_port.Place);
    }

    /// <summary>Takes a frame from outside. One thread at a time.</summary>
    /// <param name="frame">The frame, copied.</param>
    /// <returns>False when too many wait or the length is not one that Ethernet has: it is dropped, as on a wire.</returns>
    public bool TryReceive(in EthernetFrame frame)
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
            _engine.Switch.Leave(_port.Place);
    }

    private sealed class Port : AdapterWork, IFrameSink
    {
        private const int Batch = 64;
        private readonly AdapterEngine _engine;
        private readonly FrameHandler _send;

        internal Port(AdapterEngine engine, int depth, FrameHandler send)
        {
            _engine = engine;
            _send = send;
            Waiting = new FrameRing(depth);
            Place = new SwitchPort(engine.Common.Switching, this);
        }

        internal override AdapterLane Lane => _engine.Common;

        internal SwitchPort Place { get; }

        internal Lock Gate { get; } = new();

        internal FrameRing Waiting { get; }

        internal override bool Run(AdapterLane lane)
        {
            for (var i = 0; i < Batch; i++)
            {
                if (!Waiting.TryPeek(out var frame))
                    return false;
                if (!Place.IsGone && _engine.IsLinkUp)
                    lane.Switching.Forward(Place, frame);
                Waiting.Release();
            }
            return true;
        }

        public OffloadKinds Takes => OffloadKinds.None;

        public void Deliver(in EthernetFrame frame)
        {
            lock (Gate)
            {
                if (!Place.IsGone && _engine.IsLinkUp)
                    _send(frame);
            }
        }

        // Nobody counts what a wire loses.
        public void Miss()
        {
        }

        public void Flush()
        {
        }
    }
}
