namespace Virtbus.Hardware.Adapter;

/// <summary>What frames go in and out by: a queue set of a function, or the wire. Its turn sends what waits. All on the adapter's thread.</summary>
internal abstract class SwitchPort : AdapterWork
{
    /// <summary>Set when the port was taken off the switch; from any thread.</summary>
    internal bool IsGone
    {
        get => Volatile.Read(ref _gone);
        set => Volatile.Write(ref _gone, value);
    }

    /// <summary>Whether the port waits for its <see cref="Flush"/>; the engine's mark.</summary>
    internal bool IsTouched { get; set; }

    private bool _gone;

    /// <summary>Hands a frame to the port.</summary>
    internal abstract void Deliver(ReadOnlySpan<byte> frame);

    /// <summary>Ends a batch: shows the other side what was done, and tells it.</summary>
    internal abstract void Flush();
}
