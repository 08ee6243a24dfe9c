namespace Virtbus.Core;

/// <summary>One held transition of an activity; frames chain from the innermost to the outermost.</summary>
/// <remarks>
/// The ambient context that carries a frame is captured by timers, sockets and tasks that outlive the transition. So an ended frame names
/// no device any more: it neither keeps the device (and its driver's module) in memory nor makes later work look like a callback of it.
/// </remarks>
internal sealed class TransitionFrame
{
    private Device? _device;

    public TransitionFrame(Device device, TransitionFrame? outer)
    {
        _device = device;
        Outer = Live(outer);
    }

    /// <summary>The device whose transition is held; null when the transition has ended.</summary>
    public Device? Device => Volatile.Read(ref _device);

    public TransitionFrame? Outer { get; }

    public static TransitionFrame? Live(TransitionFrame? frame)
    {
        while (frame is { Device: null })
            frame = frame.Outer;
        return frame;
    }

    public void End() => Volatile.Write(ref _device, null);

    public bool Contains(TransitionFrame frame)
    {
        for (var f = this; f is not null; f = f.Outer)
        {
            if (f == frame)
                return true;
        }
        return false;
    }
}
