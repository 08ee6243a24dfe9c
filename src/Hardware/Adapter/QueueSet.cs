namespace Virtbus.Hardware.Adapter;

/// <summary>
/// A transmit and a receive queue between a driver and the adapter's switch: one port of the switch. The driver fills
/// <see cref="Transmit"/> and rings <see cref="RingDoorbell"/>; the adapter fills <see cref="Receive"/> and raises the interrupt.
/// </summary>
/// <remarks>One driver thread at a time transmits and one receives; the adapter's thread is at the other ends.</remarks>
public sealed class QueueSet
{
    private readonly AdapterEngine _engine;
    private Action? _interrupt;
    private long _dropped;

    internal QueueSet(AdapterEngine engine, uint id, int depth)
    {
        _engine = engine;
        Id = id;
        Transmit = new FrameRing(depth);
        Receive = new FrameRing(depth);
    }

    /// <summary>The number by which the driver names it.</summary>
    public uint Id { get; }

    /// <summary>Frames from the driver.</summary>
    public FrameRing Transmit { get; }

    /// <summary>Frames to the driver.</summary>
    public FrameRing Receive { get; }

    /// <summary>Frames for the driver that found <see cref="Receive"/> full.</summary>
    public long Dropped => Interlocked.Read(ref _dropped);

    /// <summary>Tells the adapter that <see cref="Transmit"/> has frames.</summary>
    public void RingDoorbell() => _engine.Wake();

    /// <summary>Sets what is called on the adapter's thread when <see cref="Receive"/> has got frames. It must not block.</summary>
    /// <param name="interrupt">The driver's handler; null masks the interrupt.</param>
    public void SetInterrupt(Action? interrupt) => Volatile.Write(ref _interrupt, interrupt);

    internal bool Pending { get; set; }

    internal void Deliver(ReadOnlySpan<byte> frame)
    {
        if (Receive.TryWrite(frame))
            Pending = true;
        else
            Interlocked.Increment(ref _dropped);
    }

    internal void RaiseIfPending()
    {
        if (!Pending)
            return;
        Pending = false;
        Volatile.Read(ref _interrupt)?.Invoke();
    }
}
