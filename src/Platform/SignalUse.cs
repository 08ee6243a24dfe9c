namespace Virtbus.Platform;

/// <summary>A stay in a <see cref="SignalLine"/>. Short, and without a call to anything that waits.</summary>
public readonly ref struct SignalUse
{
    private readonly SignalLine _line;
    private readonly SignalLine.Slot _slot;

    internal SignalUse(SignalLine line, SignalLine.Slot slot)
    {
        _line = line;
        _slot = slot;
    }

    /// <summary>Signals the user, as <see cref="SignalLine.Signal()"/>.</summary>
    public void Signal() => _line.Signal(_slot);

    /// <summary>Leaves the line.</summary>
    public void Dispose() => _slot.Gate.Leave();
}
