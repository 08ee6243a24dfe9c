using System.Diagnostics;
using Virtbus.Block;

namespace Virtbus.Subsystems.Block;

/// <summary>
/// What a channel has done, counted by its thread alone so that no request pays for a locked instruction, and read by any; and sums of such.
/// Reads, writes, discards and flushes in this order; zeros count as writes.
/// </summary>
internal sealed class BlockStatistics
{
    internal const int Reads = 0;
    internal const int Writes = 1;
    internal const int Discards = 2;
    internal const int Flushes = 3;
    internal const int Kinds = 4;

    private readonly long[] _requests = new long[Kinds];
    private readonly long[] _bytes = new long[Kinds];
    private readonly long[] _time = new long[Kinds];
    private readonly long[] _inFlight = new long[Kinds];

    /// <summary>How long there was something to do.</summary>
    internal long BusyMilliseconds { get; set; }

    internal long RequestsOf(int kind) => Volatile.Read(ref _requests[kind]);

    /// <summary>In sectors of 512 bytes; of flushes there are none that mean anything.</summary>
    internal long SectorsOf(int kind) => Volatile.Read(ref _bytes[kind]) >> 9;

    internal long MillisecondsOf(int kind) => (long)Stopwatch.GetElapsedTime(0, Volatile.Read(ref _time[kind])).TotalMilliseconds;

    internal long InFlightOf(int kind) => Volatile.Read(ref _inFlight[kind]);

    internal void Begin(BlockRequest request)
    {
        var kind = KindOf(request.Operation);
        Volatile.Write(ref _inFlight[kind], _inFlight[kind] + 1);
    }

    /// <param name="request">What has ended.</param>
    /// <param name="time">How long it took, in ticks of <see cref="Stopwatch"/>.</param>
    internal void End(BlockRequest request, long time)
    {
        var kind = KindOf(request.Operation);
        Volatile.Write(ref _inFlight[kind], _inFlight[kind] - 1);
        Volatile.Write(ref _requests[kind], _requests[kind] + 1);
        Volatile.Write(ref _bytes[kind], _bytes[kind] + request.Length);
        Volatile.Write(ref _time[kind], _time[kind] + time);
    }

    internal void Add(BlockStatistics other)
    {
        for (var i = 0; i < Kinds; i++)
        {
            _requests[i] += Volatile.Read(ref other._requests[i]);
            _bytes[i] += Volatile.Read(ref other._bytes[i]);
            _time[i] += Volatile.Read(ref other._time[i]);
            _inFlight[i] += Volatile.Read(ref other._inFlight[i]);
        }
    }

    private static int KindOf(BlockOperation operation) => operation switch
    {
        BlockOperation.Write or BlockOperation.WriteZeroes => Writes,
        BlockOperation.Discard => Discards,
        BlockOperation.Flush => Flushes,
        _ => Reads,
    };
}
