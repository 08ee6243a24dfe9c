using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The virtio windows of one function, behind its registers and doorbells. They come and go on the lane's thread under the gate; accesses come
/// from any thread.
/// </summary>
/// <param name="owner">What tells of what happened in a window.</param>
/// <param name="port">The way to interrupts.</param>
/// <param name="limits">How many there can be, and with which vectors.</param>
internal sealed class FunctionWindows(AdapterWork owner, IFunctionPort port, FunctionLimits limits)
{
    /// <summary>Bytes from one queue's notification to the next.</summary>
    public const int NotifyStride = 4;

    private VirtioWindow?[]? _windows;

    /// <summary>Whether there is none; the state of a device in one is none that could be moved.</summary>
    internal bool IsEmpty => !All.Any();

    /// <summary>How many virtqueues they have.</summary>
    internal int Queues => All.Sum(w => w.QueueCount);

    /// <summary>Offsets of all notifications in the doorbell BAR.</summary>
    internal IEnumerable<int> Notifications =>
        All.SelectMany(w => Enumerable.Range(0, w.QueueCount).Select(q => AdapterLayout.WindowBase + (w.Index * AdapterLayout.WindowSize) + (q * NotifyStride)));

    private IEnumerable<VirtioWindow> All => Volatile.Read(ref _windows)?.OfType<VirtioWindow>() ?? [];

    /// <summary>Gives a virtio device a window.</summary>
    internal Errno Add(VirtioDevice device, DmaPort dma, out int index)
    {
        _windows ??= new VirtioWindow?[limits.Windows];
        index = Array.IndexOf(_windows, null);
        if (index < 0)
            return Errno.ENOSPC;
        // Two with one PASID would be told of each other's memory.
        if (All.Any(w => w.Pasid == dma.Pasid))
            return Errno.EBUSY;
        Volatile.Write(ref _windows[index], new VirtioWindow(owner, port, limits.Vectors, index, device, dma));
        return Errno.None;
    }

    /// <summary>Takes a virtio device out that its driver has reset.</summary>
    internal Errno Remove(uint index)
    {
        if (_windows is null || index >= (uint)_windows.Length || _windows[index] is not { } window)
            return Errno.ENOENT;
        // Its queues would have to be waited for, and with them all functions.
        if (window.IsInUse)
            return Errno.EBUSY;
        Volatile.Write(ref _windows[index], null);
        window.Dispose();
        return Errno.None;
    }

    /// <summary>Takes all of them out.</summary>
    internal void Clear()
    {
        VirtioWindow[] windows = [.. All];
        Volatile.Write(ref _windows, null);
        foreach (var window in windows)
            window.Dispose();
    }

    internal void Read(ulong offset, Span<byte> destination)
    {
        destination.Clear();
        if (TryGet(offset, out var window, out var within))
            window.Read(within, destination);
    }

    internal void Write(ulong offset, ReadOnlySpan<byte> source)
    {
        if (TryGet(offset, out var window, out var within))
            window.Write(within, source);
    }

    /// <summary>A write to the doorbell BAR: the driver made buffers available.</summary>
    internal void Notify(ulong offset)
    {
        if (TryGet(offset, out var window, out var within) && within % NotifyStride == 0)
            window.Notify(within / NotifyStride);
    }

    /// <summary>Lets signals of an eventfd stand for a notification.</summary>
    internal bool TryAttachNotify(ulong offset, EventFd? signal)
    {
        if (!TryGet(offset, out var window, out var within) || within % NotifyStride != 0 || within / NotifyStride >= window.QueueCount)
            return false;
        window.AttachNotify(within / NotifyStride, signal);
        return true;
    }

    /// <summary>Tells of ring errors and of configurations that changed.</summary>
    internal bool TryTell(FunctionEvents events, DmaPort dma, uint kept)
    {
        foreach (var window in _windows ?? [])
        {
            if (window is null)
                continue;
            while (events.Room > kept && window.TryTakeFault(out var queue, out var errno))
            {
                if (!events.TryPost(dma, AdapterEventType.VirtioError, errno, (uint)window.Index, (ulong)queue, 0))
                    return false;
            }
            if (events.Room > kept && window.TakeConfigChange()
                && !events.TryPost(dma, AdapterEventType.VirtioConfig, Errno.None, (uint)window.Index, 0, 0))
                return false;
        }
        return true;
    }

    private bool TryGet(ulong offset, out VirtioWindow window, out int within)
    {
        var at = offset - AdapterLayout.WindowBase;
        within = (int)(at % AdapterLayout.WindowSize);
        var index = at / AdapterLayout.WindowSize;
        var windows = Volatile.Read(ref _windows);
        window = (windows is not null && offset >= AdapterLayout.WindowBase && index < (ulong)windows.Length ? Volatile.Read(ref windows[index]) : null)!;
        return window is not null;
    }
}
