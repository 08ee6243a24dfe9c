using System.Diagnostics;
using Virtbus.Platform;

namespace Virtbus.Virtio;

// How the driver is told of used buffers: of each batch at once, or of several together (VIRTIO 1.3, 5.1.6.5.9). It sees them at once in any case, and what
// is held back is told at the latest when the queue stops.
internal sealed partial class QueueRunner
{
    private const int PacketsShift = 32;
    private static readonly long TicksOfMicrosecond = Stopwatch.Frequency / 1_000_000;

    // Packets above, microseconds below; 0 where nothing is held back.
    private ulong _coalescing;
    // Since when; 0 when nothing is held back.
    private long _heldSince;
    private ulong _requestsBefore;

    long IPollWork.DueAt => _heldSince == 0 ? long.MaxValue : _heldSince + MostTicks(Volatile.Read(ref _coalescing));

    /// <summary>Sets for how many requests or how long notifications are held back; any thread.</summary>
    /// <param name="packets">How many; 0 for not at all.</param>
    /// <param name="microseconds">How long since the first of them; 0 for not at all.</param>
    internal void SetCoalescing(uint packets, uint microseconds)
    {
        var value = packets == 0 || microseconds == 0 ? 0 : ((ulong)packets << PacketsShift) | microseconds;
        // What is held back may be due by that.
        if (Interlocked.Exchange(ref _coalescing, value) != value)
            Poke();
    }

    private static long MostTicks(ulong coalescing) => (uint)coalescing * TicksOfMicrosecond;

    // Whether the driver is told of the batch later. What is held back already is counted with it.
    private bool BeginBatch()
    {
        if (_heldSince != 0)
            return true;
        if (Volatile.Read(ref _coalescing) == 0)
            return false;
        _requestsBefore = _processor.Counters.Requests;
        return true;
    }

    private void HoldBack()
    {
        _ring.Show();
        if (_ring.Untold == 0)
            return;
        if (_heldSince == 0)
            _heldSince = Stopwatch.GetTimestamp();
        TellIfDue();
    }

    private void TellIfDue()
    {
        var coalescing = Volatile.Read(ref _coalescing);
        // A driver all of whose descriptors are back has nothing else to wait for.
        if (_processor.Counters.Requests - _requestsBefore >= coalescing >> PacketsShift || _ring.Untold >= _ring.Size
            || Stopwatch.GetTimestamp() - _heldSince >= MostTicks(coalescing))
            Tell();
    }

    private void Publish()
    {
        _ring.Show();
        Tell();
    }

    private void Tell()
    {
        _heldSince = 0;
        // Whoever has reset it knows nothing of what comes still.
        if (!_ring.IsNoticeWanted() || _isForgotten || Interrupt is not { } interrupt)
            return;
        _calls++;
        interrupt();
    }
}
