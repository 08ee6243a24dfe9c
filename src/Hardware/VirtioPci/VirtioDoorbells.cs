using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Hardware.VirtioPci.VirtioFunctionLayout;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>
/// The eventfds that stand for notifications of a function: one for the place of each queue, and one for each number of a queue at the one place of old drivers. The
/// queue's thread waits for both itself.
/// </summary>
/// <remarks>Under the lock of the accesses.</remarks>
internal sealed class VirtioDoorbells
{
    private readonly VirtioDevice _device;
    private readonly PciDoorbell? _old;
    private readonly Action<VirtioDoorbellWatch, int> _notifyOld;
    private readonly EventFd?[] _own;
    private readonly EventFd?[] _olds;
    private VirtioDoorbellWatch? _watch;
    private bool _runsOld;

    /// <summary>There are none yet.</summary>
    /// <param name="device">Whose queues.</param>
    /// <param name="old">The place of old drivers, without a number; null where there is none.</param>
    /// <param name="notifyOld">
    /// Told, on any thread, under no lock, that an eventfd of old drivers was signalled while their queues did not run: by whom, and the queue. Who takes the lock asks
    /// <see cref="IsCurrent"/> then.
    /// </param>
    internal VirtioDoorbells(VirtioDevice device, PciDoorbell? old, Action<VirtioDoorbellWatch, int> notifyOld)
    {
        (_device, _old, _notifyOld) = (device, old, notifyOld);
        _own = new EventFd?[device.QueueCount + device.AdminQueueCount];
        _olds = new EventFd?[old is null ? 0 : device.QueueCount];
        for (var i = 0; i < _own.Length; i++)
            device.SetQueueKick(i, null, polls: false);
        All =
        [
            .. Enumerable.Range(0, _own.Length).Select(static i => new PciDoorbell(RegisterBar, (ulong)((NotifyPage * PageSize) + (i * NotifyStride)), sizeof(ushort))),
            .. Enumerable.Range(0, _olds.Length).Select(i => old!.Value with { Match = (ulong)i }),
        ];
    }

    /// <summary>What an eventfd can stand for: notifications of two bytes, whose value says nothing beside their place, and those of old drivers.</summary>
    internal IReadOnlyList<PciDoorbell> All { get; }

    /// <summary>How many queues have a place of their own.</summary>
    internal int QueueCount => _own.Length;

    /// <summary>Finds what an eventfd is to stand for.</summary>
    internal bool TryFind(in PciDoorbell doorbell, out int queue, out bool isOld)
    {
        isOld = doorbell.Match is not null;
        if (isOld)
        {
            queue = doorbell.Match < (ulong)_olds.Length ? (int)doorbell.Match : -1;
            return queue >= 0 && doorbell with { Match = null } == _old;
        }

        var within = doorbell.Offset - (NotifyPage * PageSize);
        queue = within / NotifyStride < (ulong)_own.Length ? (int)(within / NotifyStride) : -1;
        return queue >= 0 && within % NotifyStride == 0 && doorbell is { Bar: RegisterBar, Size: 2 or 4 };
    }

    /// <summary>Sets the eventfd for what <see cref="TryFind"/> found; null for none.</summary>
    internal void Set(int queue, bool isOld, EventFd? signal)
    {
        ref var place = ref (isOld ? _olds : _own)[queue];
        var old = place;
        place = signal?.Duplicate();
        Tell(queue);
        if (isOld)
            Watch();
        old?.Dispose();
    }

    /// <summary>Whether it is the watch of now: what one before has seen is nobody's.</summary>
    internal bool IsCurrent(VirtioDoorbellWatch watch) => watch == _watch;

    /// <summary>The queues of an old driver begin to run.</summary>
    internal void BeginOld()
    {
        _runsOld = true;
        Watch();
    }

    /// <summary>The function is reset: what was signalled before is nobody's.</summary>
    internal void EndOld()
    {
        _runsOld = false;
        if (!Array.Exists(_olds, static signal => signal is not null))
            return;
        _watch?.Dispose();
        foreach (var signal in _olds)
            signal?.TryRead(out _);
        Watch();
    }

    /// <summary>Detaches all.</summary>
    /// <param name="tells">Whether the device is there still.</param>
    internal void Clear(bool tells)
    {
        EventFd?[] gone = [.. _own, .. _olds];
        Array.Clear(_own);
        Array.Clear(_olds);
        Watch();
        for (var i = 0; tells && i < _own.Length; i++)
        {
            if (gone[i] is not null || (i < _olds.Length && gone[_own.Length + i] is not null))
                Tell(i);
        }

        foreach (var signal in gone)
            signal?.Dispose();
    }

    // The queue stands still for that, so not without need.
    private void Tell(int queue)
    {
        EventFd?[] both = [_own[queue], queue < _olds.Length ? _olds[queue] : null];
        _device.SetQueueKicks(queue, [.. both.OfType<EventFd>()], polls: false);
    }

    // An old driver may use a queue before it says that it is ready (3.1.2), so somebody has to listen where no queue does.
    private void Watch()
    {
        _watch?.Dispose();
        _watch = null;
        if (_runsOld || !Array.Exists(_olds, static signal => signal is not null))
            return;
        try
        {
            _watch = new VirtioDoorbellWatch(_device.Name, _olds, _notifyOld);
        }
        catch (VirtbusException)
        {
            // The host has no room for it. A driver that says that it is ready first, as those of today do, does without.
        }
    }
}
