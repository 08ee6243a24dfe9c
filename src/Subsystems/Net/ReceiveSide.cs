using System.Runtime.InteropServices;
using Virtbus.Ethernet;

namespace Virtbus.Subsystems.Net;

/// <summary>The receive side of a queue of an interface: counters, and memory that frames are finished in. One thread at a time, but for what is read.</summary>
internal sealed class ReceiveSide
{
    private Counts _counts;
    private int _isPolled;

    /// <summary>Memory for a frame that is finished for a receiver; made for the first of them.</summary>
    internal byte[] Scratch => field ??= new byte[FrameFinisher.BufferSize];

    internal NetStatistics Statistics => new()
    {
        ReceivedFrames = Volatile.Read(ref _counts.Frames),
        ReceivedBytes = Volatile.Read(ref _counts.Bytes),
        ReceiveDropped = Volatile.Read(ref _counts.Dropped),
        ReceiveErrors = Volatile.Read(ref _counts.Lengths) + Volatile.Read(ref _counts.Misfits),
        ReceiveLengthErrors = Volatile.Read(ref _counts.Lengths),
        ReceiveFrameErrors = Volatile.Read(ref _counts.Misfits),
    };

    /// <summary>Whether nobody else polls it.</summary>
    internal bool TryEnterPoller() => Interlocked.Exchange(ref _isPolled, 1) == 0;

    internal void LeavePoller() => Volatile.Write(ref _isPolled, 0);

    internal void Count(int bytes)
    {
        _counts.Frames++;
        _counts.Bytes += bytes;
    }

    internal void CountDropped() => _counts.Dropped++;

    internal void CountLengthError() => _counts.Lengths++;

    internal void CountFrameError() => _counts.Misfits++;

    // In cache lines of its own: each queue has a thread.
    [StructLayout(LayoutKind.Explicit, Size = 192)]
    private struct Counts
    {
        [FieldOffset(64)]
        public long Frames;
        [FieldOffset(72)]
        public long Bytes;
        [FieldOffset(80)]
        public long Dropped;
        [FieldOffset(88)]
        public long Lengths;
        [FieldOffset(96)]
        public long Misfits;
    }
}
