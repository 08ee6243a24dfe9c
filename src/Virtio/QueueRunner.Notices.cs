using System.Diagnostics;
using Virtbus.Platform;

namespace Virtbus.Virtio;

// How the driver is told of used buffers: of each batch at once, or of several together. It sees them at once in any case, and what is held back is told at
// the latest when the queue stops.
internal sealed partial class QueueRunner
{
    private HeldNotices _held = new(Stopwatch.Frequency);

    long IPollWork.DueAt => _held.DueAt;

    /// <summary>Sets for how many requests or how long notifications are held back; any thread.</summary>
    /// <param name="packets">How many; 0 for not at all.</param>
    /// <param name="microseconds">How long since the first of them; 0 for not at all.</param>
    internal void SetCoalescing(uint packets, uint microseconds)
    {
        if (_held.TrySet(packets, microseconds))
            Poke();
    }

    private void HoldBack()
    {
        _ring.Show();
        if (_ring.Untold == 0)
            return;
        _held.Hold(Stopwatch.GetTimestamp());
        TellIfDue();
    }

    private void TellIfDue()
    {
        // A driver whose ring is full of what is back waits for nothing else.
        if (_ring.Untold >= _ring.Size || _held.IsDue(_processor.Counters.Requests, Stopwatch.GetTimestamp()))
            Tell();
    }

    private void Publish()
    {
        _ring.Show();
        Tell();
    }

    private void Tell()
    {
        _held.End();
        // Whoever has reset it knows nothing of what comes still.
        if (!_ring.IsNoticeWanted() || _isForgotten || Interrupt is not { } interrupt)
            return;
        _calls++;
        interrupt();
    }
}
