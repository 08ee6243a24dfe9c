namespace Virtbus.Platform;

/// <summary>A device as a source of bugs of this program, see <see cref="FaultSink"/>. Safe from any thread.</summary>
public sealed class FaultSource
{
    private readonly FaultSink _sink;
    private readonly LogLimiter _limiter;
    private long _count;

    internal FaultSource(FaultSink sink, string name, LogLimiter limiter)
    {
        _sink = sink;
        _limiter = limiter;
        Name = name;
    }

    /// <summary>What people call it.</summary>
    public string Name { get; }

    /// <summary>How many bugs showed at its work.</summary>
    public long Count => Interlocked.Read(ref _count);

    /// <summary>Tells of one. Never throws.</summary>
    /// <param name="work">What was at work: a queue, a register.</param>
    /// <param name="exception">What nobody was to see.</param>
    public void Report(string work, Exception exception)
    {
        Interlocked.Increment(ref _count);
        _sink.Take(this, work, exception, _limiter);
    }

    /// <summary>As <see cref="Report(string, Exception)"/>, for work that may have no source: then <see cref="ServiceThread.Unhandled"/> hears of it.</summary>
    /// <param name="source">The source, if there is one.</param>
    /// <param name="work">What was at work.</param>
    /// <param name="exception">What nobody was to see.</param>
    public static void Report(FaultSource? source, string work, Exception exception)
    {
        if (source is not null)
            source.Report(work, exception);
        else
            ServiceThread.Report(work, exception);
    }
}
