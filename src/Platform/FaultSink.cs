namespace Virtbus.Platform;

/// <summary>
/// Where what is at work on a data path tells of bugs of this program: exceptions that nobody was to see. What a peer does wrong is no business
/// of it. Each is counted; the first ones of a source are told, the rest with a later one. The device at whose work it happened fails, and
/// nothing else does. Safe from any thread; telling never throws.
/// </summary>
/// <param name="tell">Gets the source's name, what it was at, the exception, and how many of the source were not told before; null for nobody.</param>
/// <param name="time">The clock; null for the system's.</param>
public sealed class FaultSink(Action<string, string, Exception, long>? tell = null, TimeProvider? time = null)
{
    private const int Lines = 3;
    private static readonly TimeSpan Span = TimeSpan.FromMinutes(1);
    private long _count;

    /// <summary>How many there were, of all sources.</summary>
    public long Count => Interlocked.Read(ref _count);

    /// <summary>Makes a source.</summary>
    /// <param name="name">What people call it: a device.</param>
    public FaultSource Open(string name) => new(this, name, new LogLimiter(time ?? TimeProvider.System, Lines, Span));

    internal void Take(FaultSource source, string work, Exception exception, LogLimiter limiter)
    {
        Interlocked.Increment(ref _count);
        if (tell is null || !limiter.TryTake(out var suppressed))
            return;
        ServiceThread.Guard(source.Name, () => tell(source.Name, work, exception, suppressed));
    }
}
