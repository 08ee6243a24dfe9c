using Virtbus.Buses.Virtio;
using Virtbus.Platform;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>
/// A request queue of the device, and whose slots are out in it. Channels share one where there are more of them than queues: its lock is taken once for all
/// that a channel has to send, and once for all that has come back. Any thread.
/// </summary>
/// <param name="disk">The disk.</param>
internal sealed class BlkRing(BlkDisk disk)
{
    internal const int Depth = 256;
    // Header, data and status.
    internal const int LeastParts = 3;

    private readonly Lock _lock = new();
    private VirtioQueue? _queue;
    // By the name that the queue gave it.
    private BlkSlot?[] _out = [];
    // Channels that wait for room, to be woken when some is there.
    private readonly List<BlkChannel> _starved = [];
    // How many channels have something out.
    private int _busy;
    // Of the channels' memory, what the device has been given and did not hand back: it may use that until it is reset. Counted by resets, from 1; and the number
    // of the last memory of users among it.
    private int _resets = 1;
    private long _lastLost;
    private Errno _error;
    private bool _isArmed;
    private bool _hasTables;
    private bool _isTabled;

    /// <summary>How many channels use it; under the disk's lock.</summary>
    internal int Channels { get; set; }

    /// <summary>The device has a queue for it, and may work.</summary>
    internal void Attach(VirtioQueue queue)
    {
        lock (_lock)
        {
            _out = new BlkSlot[queue.Size];
            // A table costs the device more than three descriptors in a row, so it is for a queue that is short of them.
            _hasTables = queue.HasTables;
            _isTabled = _hasTables && queue.Size < LeastParts * BlkLayout.MostSlots;
            _error = Errno.None;
            _resets++;
            _lastLost = 0;
            _isArmed = true;
            queue.RequestCalls(true);
            _queue = queue;
            WakeStarved();
        }
    }

    /// <summary>The device is about to be reset: what is out goes out again when there is a queue, and what comes meanwhile waits for that.</summary>
    internal void Detach()
    {
        lock (_lock)
        {
            _queue = null;
            DeliverAll(BlkOutcome.Again);
        }
    }

    /// <summary>There will be no queue any more: what is out and what comes fails.</summary>
    internal void Fail(Errno error)
    {
        lock (_lock)
        {
            _error = error;
            _queue = null;
            DeliverAll(BlkOutcome.Failed);
            WakeStarved();
        }
    }

    /// <summary>Sends slots.</summary>
    /// <param name="channel">Whose they are.</param>
    /// <param name="slots">The numbers of the slots.</param>
    /// <param name="isAll">Whether these are all, so that the device is notified, once; else it sees them if it looks.</param>
    /// <returns>How many went out, or failed at once; there is no room for the others, and the channel is woken when there is.</returns>
    internal int Send(BlkChannel channel, ReadOnlySpan<int> slots, bool isAll)
    {
        lock (_lock)
        {
            var sent = 0;
            while (sent < slots.Length && TrySend(channel, channel.SlotOf(slots[sent])))
                sent++;
            if (isAll)
                _queue?.Kick();
            else
                _queue?.Show();
            if (sent < slots.Length && !channel.IsStarved)
            {
                channel.IsStarved = true;
                _starved.Add(channel);
            }

            return sent;
        }
    }

    /// <summary>Takes what has come back for a channel.</summary>
    /// <param name="channel">The channel.</param>
    /// <param name="slots">An array for all its slots, that becomes the one with those that came back.</param>
    /// <param name="hasUnsent">Whether the channel has slots that found no room.</param>
    /// <param name="mayWait">Whether the channel is woken as soon as there is something, when there is nothing.</param>
    /// <returns>How many came back; -1 when there is room meanwhile.</returns>
    internal int Receive(BlkChannel channel, ref int[] slots, bool hasUnsent, bool mayWait)
    {
        lock (_lock)
        {
            if (_queue is { } queue)
            {
                TakeUsed(queue);
                // Who has something to do comes again by itself; as long as that is all who wait, the device need not tell.
                if (channel.InboxCount > 0 && _busy == (channel.Out > 0 ? 1 : 0))
                    Disarm(queue);
                else if (channel.InboxCount > 0 || mayWait)
                    Arm(queue);
            }

            var count = channel.InboxCount;
            if (count > 0)
            {
                (channel.Inbox, slots) = (slots, channel.Inbox);
                channel.InboxCount = 0;
                channel.IsAsleep = false;
                return count;
            }

            if (hasUnsent && !channel.IsStarved)
                return -1;
            channel.IsAsleep |= mayWait;
            return 0;
        }
    }

    /// <summary>A channel is closed: what it has out comes back to nobody.</summary>
    internal void Leave(BlkChannel channel)
    {
        lock (_lock)
        {
            channel.IsClosed = true;
            channel.InboxCount = 0;
            channel.IsStarved = false;
            _starved.Remove(channel);
            // Nobody looks any more, and its memory is freed when all is back.
            if (channel.Out > 0 && _queue is { } queue)
                Arm(queue);
        }
    }

    /// <summary>Whether nothing goes out by it any more.</summary>
    internal bool IsBroken
    {
        get
        {
            lock (_lock)
                return _error != Errno.None || _queue is { IsBroken: true };
        }
    }

    /// <summary>Whether the device may use memory of a closed channel still: something is out, or was when the queue broke, which the device need not know.</summary>
    internal bool Holds(BlkChannel channel)
    {
        lock (_lock)
            return channel.Out > 0 || channel.LostAt == _resets;
    }

    /// <summary>The same of memory of users.</summary>
    internal bool Holds(BlkMemory memory)
    {
        lock (_lock)
            return memory.Number <= _lastLost || _out.Any(slot => slot is not null && slot.IsIn(memory));
    }

    /// <summary>Breaks the queue when something has been out for too long.</summary>
    internal void LookAtTime(int now, int most)
    {
        lock (_lock)
        {
            if (_queue is not { IsBroken: false } queue)
                return;
            // What was used, and nobody came to look, is no delay of the device.
            TakeUsed(queue);
            Arm(queue);
            if (!_out.Any(slot => slot is not null && now - slot.Since >= most))
                return;
            _error = Errno.ETIMEDOUT;
            queue.Break(new Fault(Errno.ETIMEDOUT, "the device does not answer a request"));
        }
    }

    /// <summary>The device has used buffers, or the queue is broken. On the thread that interrupts.</summary>
    internal void OnUsed(VirtioQueue queue)
    {
        lock (_lock)
        {
            if (_queue != queue)
                return;
            TakeUsed(queue);
            _isArmed = false;
            Arm(queue);
        }
    }

    private bool TrySend(BlkChannel channel, BlkSlot slot)
    {
        if (_error != Errno.None || _queue is { IsBroken: true })
            return FailUnsent(channel, slot);
        if (_queue is not { } queue)
            return false;
        var parts = slot.Parts;
        var name = _isTabled || (_hasTables && parts.Length > LeastParts) ? queue.AddTable(parts, channel.Memory, BlkLayout.TableOf(slot.Index)) : queue.Add(parts);
        // With nothing out there is no more room to wait for: the device came back from its sleep with a shorter queue.
        if (name < 0)
            return _busy == 0 && FailUnsent(channel, slot);
        _out[name] = slot;
        slot.Since = disk.Ticks;
        if (channel.Out++ == 0)
            _busy++;
        return true;
    }

    private bool FailUnsent(BlkChannel channel, BlkSlot slot)
    {
        if (channel.Out++ == 0)
            _busy++;
        slot.Error = Reason();
        Deliver(slot, BlkOutcome.Failed, 0);
        return true;
    }

    private void Arm(VirtioQueue queue)
    {
        if (_isArmed)
            return;
        while (queue.RequestCalls(true))
            TakeUsed(queue);
        _isArmed = true;
    }

    private void Disarm(VirtioQueue queue)
    {
        if (!_isArmed)
            return;
        _isArmed = false;
        queue.RequestCalls(false);
    }

    private void TakeUsed(VirtioQueue queue)
    {
        var any = false;
        while (queue.TryTake(out var name, out var written))
        {
            any = true;
            // The wish is for the next one after those that were there.
            _isArmed = false;
            if (_out[name] is not { } slot)
                continue;
            _out[name] = null;
            Deliver(slot, BlkOutcome.Used, written);
        }

        if (queue.IsBroken)
        {
            if (_error == Errno.None)
                _error = disk.IsGone ? Errno.ENODEV : Errno.EIO;
            DeliverAll(BlkOutcome.Failed);
            any = true;
        }

        if (any)
            WakeStarved();
    }

    private void DeliverAll(BlkOutcome outcome)
    {
        for (var i = 0; i < _out.Length; i++)
        {
            if (_out[i] is not { } slot)
                continue;
            _out[i] = null;
            slot.Error = Reason();
            slot.Channel.LostAt = _resets;
            _lastLost = disk.LastMemory;
            Deliver(slot, outcome, 0);
        }
    }

    private void Deliver(BlkSlot slot, BlkOutcome outcome, uint written)
    {
        var channel = slot.Channel;
        if (--channel.Out == 0)
            _busy--;
        if (channel.IsClosed)
            return;
        slot.Outcome = outcome;
        slot.Written = written;
        channel.Inbox[channel.InboxCount++] = slot.Index;
        Wake(channel);
    }

    private void WakeStarved()
    {
        foreach (var channel in _starved)
        {
            channel.IsStarved = false;
            Wake(channel);
        }

        _starved.Clear();
    }

    private static void Wake(BlkChannel channel)
    {
        if (!channel.IsAsleep)
            return;
        channel.IsAsleep = false;
        channel.Wake();
    }

    private Errno Reason() => _error != Errno.None ? _error : Errno.EIO;
}
