namespace Virtbus.Daemon.Logs;

/// <summary>Where log lines go. Used by one thread at a time.</summary>
internal interface ILogOutput
{
    /// <summary>Writes; never throws.</summary>
    /// <param name="text">Whole lines.</param>
    /// <param name="error">Why not, when the answer is false.</param>
    /// <returns>Whether all of it was written.</returns>
    bool TryWrite(ReadOnlySpan<byte> text, out string error);
}
