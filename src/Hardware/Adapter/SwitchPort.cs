namespace Virtbus.Hardware.Adapter;

/// <summary>What frames go in and out by: a queue set of a function, or the wire. Its turn sends what waits. All on the thread of its lane.</summary>
/// <param name="lane">The lane; the same one as long as the port lives.</param>
internal abstract class SwitchPort(AdapterLane lane) : AdapterWork
{
    private bool _gone;

    internal sealed override AdapterLane Lane => lane;

    /// <summary>Set when the port was taken off the switch; from any thread.</summary>
    internal bool IsGone
    {
        get => Volatile.Read(ref _gone);
        set => Volatile.Write(ref _gone, value);
    }

    /// <summary>Whether the port waits for its <see cref="Flush"/>; the lane's mark.</summary>
    internal bool IsTouched { get; set; }

    /// <summary>Hands a frame to the port.</summary>
    internal abstract void Deliver(ReadOnlySpan<byte> frame);

    /// <summary>A frame for the port was lost because its lane did not keep up. Any thread.</summary>
    internal abstract void Miss();

    /// <summary>Ends a batch: shows the other side what was done, and tells it.</summary>
    internal abstract void Flush();
}
