namespace Virtbus.Virtio;

/// <summary>
/// When a driver is told of used buffers that it wants to be told of together (VIRTIO 1.3, 5.1.6.5.9): of so many requests, or so long after the first of them.
/// It knows no clock: the caller says what time it is. One thread uses it, but for <see cref="TrySet"/>.
/// </summary>
/// <param name="frequency">Units of time in a second; a million or more.</param>
internal struct HeldNotices(long frequency)
{
    private const int PacketsShift = 32;
    private const long MicrosecondsOfSecond = 1_000_000;

    private readonly long _microsecond = frequency / MicrosecondsOfSecond;
    // Packets above, microseconds below; 0 where nothing is held back.
    private ulong _parameters;
    private bool _isHeld;
    private long _since;
    private ulong _requestsBefore;

    /// <summary>Whether the driver waits to be told of something.</summary>
    internal readonly bool IsHeld => _isHeld;

    /// <summary>When it is to be told at the latest; <see cref="long.MaxValue"/> when nothing is held back.</summary>
    internal long DueAt => _isHeld ? _since + MostTime(Volatile.Read(ref _parameters)) : long.MaxValue;

    /// <summary>Sets for how many requests or how long notifications are held back; any thread.</summary>
    /// <param name="packets">How many; 0 for not at all.</param>
    /// <param name="microseconds">How long since the first of them; 0 for not at all.</param>
    /// <returns>Whether that is something else than before, by which what is held back may be due.</returns>
    internal bool TrySet(uint packets, uint microseconds)
    {
        var value = packets == 0 || microseconds == 0 ? 0 : ((ulong)packets << PacketsShift) | microseconds;
        return Interlocked.Exchange(ref _parameters, value) != value;
    }

    /// <summary>Begins a batch.</summary>
    /// <param name="requests">How many there were so far.</param>
    /// <returns>Whether the driver is told of the batch later. What is held back already is counted with it.</returns>
    internal bool Begin(ulong requests)
    {
        if (_isHeld)
            return true;
        if (Volatile.Read(ref _parameters) == 0)
            return false;
        _requestsBefore = requests;
        return true;
    }

    /// <summary>A batch is there for the driver to see.</summary>
    /// <param name="now">What time it is.</param>
    internal void Hold(long now)
    {
        if (_isHeld)
            return;
        _isHeld = true;
        _since = now;
    }

    /// <summary>Whether it is to be told of what is held back.</summary>
    /// <param name="requests">How many there were so far.</param>
    /// <param name="now">What time it is.</param>
    internal bool IsDue(ulong requests, long now)
    {
        var parameters = Volatile.Read(ref _parameters);
        return requests - _requestsBefore >= parameters >> PacketsShift || now - _since >= MostTime(parameters);
    }

    /// <summary>It is told, or there is nobody any more who could be.</summary>
    internal void End() => _isHeld = false;

    private readonly long MostTime(ulong parameters) => (uint)parameters * _microsecond;
}
