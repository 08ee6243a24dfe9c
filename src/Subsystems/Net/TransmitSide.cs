using System.Runtime.InteropServices;
using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <summary>The transmit side of a queue of an interface: its lock, and what is counted under it. Any thread.</summary>
/// <param name="ops">The driver's operations.</param>
/// <param name="queue">The queue's number.</param>
internal sealed class TransmitSide(INetOps ops, int queue)
{
    private readonly Lock _lock = new();
    private Counts _counts;
    private volatile bool _isOpen;
    private volatile bool _isPending;

    internal NetStatistics Statistics => new()
    {
        TransmittedFrames = Volatile.Read(ref _counts.Frames),
        TransmittedBytes = Volatile.Read(ref _counts.Bytes),
        TransmitDropped = Volatile.Read(ref _counts.Dropped),
    };

    /// <summary>Opens or closes the queue; when it is closed nobody is in the driver any more.</summary>
    internal void SetOpen(bool open)
    {
        lock (_lock)
        {
            _isOpen = open;
            _isPending = false;
        }
    }

    internal bool TrySend(in EthernetFrame frame, out Fault fault)
    {
        lock (_lock)
        {
            if (!_isOpen)
                fault = new Fault(Errno.ENOTCONN, "the interface is down");
            else if (ops.TryTransmit(queue, frame, out fault))
            {
                _isPending = true;
                _counts.Frames++;
                _counts.Bytes += frame.Length;
                return true;
            }

            _counts.Dropped++;
            return false;
        }
    }

    /// <summary>Has the hardware told of what was put in, if anything was.</summary>
    internal void Flush()
    {
        if (!_isPending)
            return;
        lock (_lock)
        {
            if (!_isPending)
                return;
            _isPending = false;
            ops.Flush(queue);
        }
    }

    // In cache lines of its own: each queue may have a thread.
    [StructLayout(LayoutKind.Explicit, Size = 192)]
    private struct Counts
    {
        [FieldOffset(64)]
        public long Frames;
        [FieldOffset(72)]
        public long Bytes;
        [FieldOffset(80)]
        public long Dropped;
    }
}
