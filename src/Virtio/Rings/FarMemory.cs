using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// What a queue reads and writes by messages. Where its ring is reached so too, the queue has a thread of its own, which waits here for memory that is
/// gone for a moment: a peer that moves its memory map takes the ring away and brings it back. Used by the queue's thread, but for what is said.
/// </summary>
/// <param name="dma">Where the memory is.</param>
/// <param name="waits">Whether what is gone is waited for.</param>
internal sealed class FarMemory(DmaPort dma, bool waits)
{
    // The peer is at an unmap, which tells of itself when it is done; one that is refused does not.
    private const int BlockedMilliseconds = 10;

    private readonly object _gate = new();
    private int _changes;
    private bool _isEnding;
    private volatile bool _isCut;

    /// <summary>What is reached has changed: who waits looks again. Any thread.</summary>
    internal void Changed()
    {
        lock (_gate)
        {
            Volatile.Write(ref _changes, _changes + 1);
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Nothing is waited for any more. Any thread.</summary>
    /// <param name="cuts">Whether nothing is asked of the peer either, but for what is under way.</param>
    internal void End(bool cuts)
    {
        lock (_gate)
        {
            _isEnding = true;
            _isCut |= cuts;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Reads.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="isRing">Whether it is of the ring, which comes back; a buffer that is not there is the driver's mistake.</param>
    internal bool TryRead(Iova address, Span<byte> destination, bool isRing)
    {
        while (true)
        {
            var seen = Volatile.Read(ref _changes);
            if (_isCut)
                return false;
            var error = dma.Read(address, destination, out var isPeers);
            // What was cut off while it was asked for is nobody's any more.
            if (error == Errno.None)
                return !_isCut;
            if (!waits || !IsPassing(new IovaRange(address, (uint)destination.Length), DmaAccess.Read, isRing, error, isPeers, seen) || !Wait(seen, error))
                return false;
        }
    }

    /// <summary>Writes, as <see cref="TryRead"/> reads. What does not arrive is counted and reported by the port.</summary>
    internal bool TryWrite(Iova address, ReadOnlySpan<byte> source, bool isRing)
    {
        while (true)
        {
            var seen = Volatile.Read(ref _changes);
            if (_isCut)
                return false;
            var error = dma.Write(address, source, out var isPeers);
            if (error == Errno.None)
                return true;
            if (!waits || !IsPassing(new IovaRange(address, (uint)source.Length), DmaAccess.Write, isRing, error, isPeers, seen) || !Wait(seen, error))
                return false;
        }
    }

    // What the peer refuses although it is mapped stays refused. What was not mapped may be so again by now, and the notice of that be on its way.
    private bool IsPassing(IovaRange range, DmaAccess access, bool isRing, Errno error, bool isPeers, int seen) =>
        error == Errno.EAGAIN || (isRing && (!isPeers || Volatile.Read(ref _changes) != seen || !IsReached(range, access)));

    private bool IsReached(IovaRange range, DmaAccess access)
    {
        if (!dma.TryEnter(out var section))
            return false;
        var hint = default(DmaHint);
        var error = Errno.None;
        for (ulong done = 0; done < range.Size && error is Errno.None or Errno.EOPNOTSUPP;)
        {
            error = section.Translate(new Iova(range.Start.Value + done), (uint)(range.Size - done), access, ref hint, out var run);
            done += (ulong)run.Length;
        }

        section.Leave();
        return error is Errno.None or Errno.EOPNOTSUPP;
    }

    private bool Wait(int seen, Errno error)
    {
        lock (_gate)
        {
            while (_changes == seen && !_isEnding)
            {
                if (error != Errno.EAGAIN)
                    Monitor.Wait(_gate);
                else if (!Monitor.Wait(_gate, BlockedMilliseconds))
                    break;
            }

            return !_isEnding;
        }
    }
}
