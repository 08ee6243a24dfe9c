using Virtbus.Platform;

namespace Virtbus.Buses.Vdpa;

/// <summary>While it lives, no queue's thread hangs in a notification: for what waits for queues' threads.</summary>
public readonly ref struct VdpaQuiet
{
    private readonly SignalLine[] _lines;

    /// <summary>Keeps notifications back.</summary>
    /// <param name="lines">The lines of the queues.</param>
    public VdpaQuiet(SignalLine[] lines)
    {
        ArgumentNullException.ThrowIfNull(lines);
        _lines = lines;
        foreach (var line in lines)
            line.Mute();
    }

    /// <summary>Lets them through again, those that were kept back first.</summary>
    public void Dispose()
    {
        foreach (var line in _lines)
            line.Unmute();
    }
}
