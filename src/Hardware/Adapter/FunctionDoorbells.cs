using System.Buffers.Binary;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>The doorbells of one function at the places of its make, and the eventfds that stand for some of them. Any thread.</summary>
/// <param name="owner">The function, for which a turn is asked when a ring has something new.</param>
/// <param name="layout">Where the make has them.</param>
/// <param name="placement">Whose thread waits for the eventfds.</param>
/// <param name="registers">What is rung.</param>
/// <param name="sets">The queue sets.</param>
/// <param name="windows">The virtio windows, whose notifications are behind.</param>
/// <param name="count">How many queue sets there can be.</param>
/// <param name="start">Where in the BAR they begin.</param>
internal sealed class FunctionDoorbells(
    AdapterWork owner, AdapterLayout layout, FunctionPlacement placement, FunctionRegisterFile registers, FunctionQueueSets sets, FunctionWindows windows, int count, ulong start)
{
    private readonly Lock _lock = new();
    private Dictionary<int, TransmitSignal>? _signals;

    /// <summary>Those that an eventfd can stand for: whose value says nothing.</summary>
    internal IReadOnlyList<PciDoorbell> All =>
    [
        .. Enumerable.Range(0, count).Select(i => layout.TransmitDoorbell + (i * layout.TransmitStride)).Concat(windows.Notifications)
            .Select(offset => new PciDoorbell(FunctionRegisterPlace.DoorbellBar, start + (ulong)offset, FunctionWindows.NotifyStride)),
    ];

    internal void Write(ulong offset, ReadOnlySpan<byte> source)
    {
        offset -= start;
        if (offset >= AdapterLayout.WindowBase)
        {
            windows.Notify(offset);
            return;
        }
        if (source.Length is not (4 or 8))
            return;
        var value = BinaryPrimitives.ReadUInt32LittleEndian(source);
        if (offset == (ulong)layout.CommandDoorbell)
        {
            registers.RingCommands(value);
            owner.Schedule();
        }
        else if (offset == (ulong)layout.EventDoorbell)
        {
            registers.RingEvents(value);
            owner.Schedule();
        }
        else if (TryGetTransmit(offset, out var set))
            sets.Ring(set);
    }

    /// <summary>Lets signals of an eventfd stand for writes to a doorbell.</summary>
    internal bool TryAttach(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        fault = Fault.None;
        if (doorbell is { Bar: FunctionRegisterPlace.DoorbellBar, Match: null })
        {
            var offset = doorbell.Offset - start;
            if (offset < AdapterLayout.WindowBase && TryGetTransmit(offset, out var set))
            {
                AttachTransmit(set, signal);
                return true;
            }
            if (windows.TryAttachNotify(offset, signal))
                return true;
        }
        fault = new Fault(Errno.ENOENT, "the adapter has no doorbell of that place whose value says nothing");
        return false;
    }

    /// <summary>Takes the eventfds of all queue sets off.</summary>
    internal void DetachAll()
    {
        Dictionary<int, TransmitSignal>? all;
        lock (_lock)
        {
            all = _signals;
            _signals = null;
        }
        foreach (var signal in all?.Values ?? Enumerable.Empty<TransmitSignal>())
            signal.Dispose();
    }

    private bool TryGetTransmit(ulong offset, out int set)
    {
        var distance = offset - (ulong)layout.TransmitDoorbell;
        set = (int)(distance / (ulong)layout.TransmitStride);
        return distance < (ulong)(count * layout.TransmitStride) && distance % (ulong)layout.TransmitStride == 0;
    }

    private void AttachTransmit(int set, EventFd? signal)
    {
        TransmitSignal? old;
        lock (_lock)
        {
            _signals ??= [];
            _signals.Remove(set, out old);
            // On the lane of the moment: who moves the function takes those off that are here by then.
            if (signal is not null)
                _signals[set] = new TransmitSignal(sets, set, placement.Lane, signal.Duplicate());
        }
        old?.Dispose();
    }

    /// <summary>An eventfd whose signals stand for writes to a queue set's doorbell.</summary>
    private sealed class TransmitSignal : AdapterWork, IDisposable
    {
        private readonly FunctionQueueSets _sets;
        private readonly int _set;
        private readonly EventFd _signal;
        private readonly PollClient? _listener;

        internal TransmitSignal(FunctionQueueSets sets, int set, AdapterLane lane, EventFd signal)
        {
            _sets = sets;
            _set = set;
            _signal = signal;
            Lane = lane;
            _listener = lane.Listen(signal, this);
        }

        internal override AdapterLane Lane { get; }

        internal override bool Run(AdapterLane lane)
        {
            _sets.Ring(_set);
            return false;
        }

        public void Dispose()
        {
            AdapterLane.Unlisten(_listener);
            _signal.Dispose();
        }
    }
}
