using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// The device side of a virtqueue, whatever the ring's format. It reads what the driver made available, once, and checks it; it hands used
/// buffers back. It knows nothing of how the sides wake each other: it says only whether they should. One thread uses it at a time.
/// </summary>
/// <remarks>
/// What the driver wrote wrong is a <see cref="Fault"/>: the queue then stands still until it is started anew. No call allocates but
/// <see cref="TryStart"/>, and the first use of a chain after it. The formats are sealed classes and a call takes a whole chain, never a
/// descriptor, so that the abstraction costs nothing where one format is in use.
/// </remarks>
public abstract partial class DeviceRing
{
    private static readonly Fault Unreadable = new(Errno.EFAULT, "the ring cannot be read");
    private static long _starts;
    private readonly IovaRange[] _areas = new IovaRange[3];
    private DmaUse[] _uses = [];
    private long _start;
    private bool _isUnseen;

    private protected DeviceRing()
    {
    }

    /// <summary>Whether the queue is started.</summary>
    public bool IsStarted => _dma is not null;

    /// <summary>Queue size while started, else 0.</summary>
    public int Size { get; private set; }

    /// <summary>Where the queue goes on, at the next start as well.</summary>
    public abstract QueueState State { get; }

    /// <summary>Attaches the queue to a driver's rings.</summary>
    /// <param name="layout">Where the rings are.</param>
    /// <param name="dma">What the device may reach. Who stops the queue by <see cref="DependsOn"/> keeps it from what is gone.</param>
    /// <param name="state">Where it begins.</param>
    /// <param name="fault">
    /// EINVAL for a size or an alignment that the standard forbids, or a state of another format; EFAULT for a ring that is not reached, or not aligned in
    /// host memory.
    /// </param>
    /// <returns>Whether it is started.</returns>
    public abstract bool TryStart(in RingLayout layout, DmaPort dma, QueueState state, out Fault fault);

    /// <summary>Detaches the queue from the rings and lets go of the memory. Buffers that were taken and not handed back are lost.</summary>
    public abstract void Stop();

    /// <summary>Takes the next available buffers, in their order. To take many at once is cheaper than one after the other.</summary>
    /// <param name="chains">Where they go, one each; the previous content is gone, of those that are left over too.</param>
    /// <param name="fault">What the driver did wrong with the one behind those that were taken; none when it did not, as with an empty ring.</param>
    /// <returns>How many were taken.</returns>
    public abstract int Take(ReadOnlySpan<DescriptorChain> chains, out Fault fault);

    /// <summary>Takes the next available buffer.</summary>
    /// <param name="chain">Where it goes; the previous content is gone.</param>
    /// <param name="fault">What the driver did wrong, or none when the ring is empty.</param>
    /// <returns>Whether there was one.</returns>
    public bool TryTake(DescriptorChain chain, out Fault fault) => Take(new ReadOnlySpan<DescriptorChain>(in chain), out fault) == 1;

    /// <summary>Puts back the buffers that were taken last, as if they had not been.</summary>
    /// <param name="chains">All that were taken from one of them on.</param>
    public abstract void PutBack(ReadOnlySpan<DescriptorChain> chains);

    /// <summary>
    /// Puts back the buffers that were taken last and are too few, with no more behind them: until the next <see cref="Take"/>, <see cref="EnableKicks"/> asks
    /// for one more than them, and they are no reason to look again.
    /// </summary>
    /// <param name="chains">All that were taken from one of them on.</param>
    public void PutBackUntilMore(ReadOnlySpan<DescriptorChain> chains)
    {
        MarkEnd();
        PutBack(chains);
    }

    /// <summary>
    /// Hands a buffer back that was taken; the driver sees it after <see cref="Publish"/>. Order is free: where VIRTIO_F_IN_ORDER was negotiated the ring
    /// holds it back until all that were taken before it are handed back too.
    /// </summary>
    /// <param name="chain">The buffer, as it was taken; its memory is not touched any more.</param>
    /// <param name="written">Bytes written to its writable part, from its start; with a trailer, one more.</param>
    public abstract void Complete(DescriptorChain chain, uint written);

    /// <summary>Lets the driver see all completed buffers at once.</summary>
    /// <returns>Whether the driver wants to be told.</returns>
    public abstract bool Publish();

    /// <summary>
    /// Lets the driver see all completed buffers, and leaves it to a later <see cref="IsNoticeWanted"/> whether it wants to be told of them: where it is told
    /// of many at once.
    /// </summary>
    internal abstract void Show();

    /// <summary>Asks whether the driver wants to be told of what it can see since this was asked the last time.</summary>
    internal abstract bool IsNoticeWanted();

    /// <summary>How many of the ring's descriptors it can see used since then. At <see cref="Size"/> it is asked.</summary>
    internal abstract int Untold { get; }

    /// <summary>Asks whether buffers are waiting; cheap enough to poll with.</summary>
    /// <returns>Whether <see cref="TryTake"/> has something to say.</returns>
    public abstract bool HasAvailable();

    /// <summary>Asks the driver not to kick: the device polls. The driver may kick anyway.</summary>
    public abstract void DisableKicks();

    /// <summary>Asks the driver to kick for the next buffer, before the device sleeps.</summary>
    /// <returns>True when buffers came meanwhile: the kick for them may never come, so the device takes them first.</returns>
    public abstract bool EnableKicks();

    /// <summary>
    /// Whether the ring itself is reached by messages, or lies in pieces of host memory, and is copied: a look at it costs a turn with the peer, and blocks,
    /// so it is looked at only when the driver kicked.
    /// </summary>
    public virtual bool IsFar => false;

    /// <summary>Whether its queue's thread may wait for the peer: the ring is far, or a buffer was. Any thread.</summary>
    internal bool MayWaitForPeer => IsFar || _hasMetFar;

    /// <summary>
    /// Whether the buffer that <see cref="TryTake"/> did not take is reached by messages, and this thread works for others too: a peer that answers late
    /// would hold them up. It is taken on another thread.
    /// </summary>
    internal bool IsHeldUp => _isHeldUp;

    /// <summary>
    /// Whether <see cref="TryStart"/> leaves the first look at a ring that is far to <see cref="TryFetch"/>, because its thread may not wait for the peer.
    /// What goes away for a moment is waited for then, so who stops the queue calls <see cref="GiveUpFar"/> first.
    /// </summary>
    internal bool WaitsForFar { get; init; }

    /// <summary>Takes the first look at a ring that is far, once after a start; without effect for another.</summary>
    /// <param name="fault">EFAULT: it can't be read.</param>
    internal bool TryFetch(out Fault fault)
    {
        fault = Fault.None;
        if (!_isUnseen)
            return true;
        _isUnseen = !TryFetchAll();
        if (_isUnseen)
            fault = Unreadable;
        return !_isUnseen;
    }

    /// <summary>Tells a ring that is far of a change of what is reached. Any thread, while it is started.</summary>
    internal void TellFar() => _far?.Changed();

    /// <summary>Has a ring that is far wait for nothing that is gone. Any thread, while it is started.</summary>
    /// <param name="cuts">Whether it asks nothing of the peer any more either.</param>
    internal void GiveUpFar(bool cuts) => _far?.End(cuts);

    /// <summary>Whether a change takes memory away that a buffer in work uses. From another thread.</summary>
    internal bool Uses(in DmaChange change)
    {
        foreach (var use in Volatile.Read(ref _uses))
        {
            if (use.Uses(change))
                return true;
        }

        return false;
    }

    /// <summary>Whether a change takes memory away in which the ring lies, so that the queue has to stop. Safe from any thread while it is started.</summary>
    /// <param name="change">The change.</param>
    public bool DependsOn(in DmaChange change)
    {
        foreach (var area in _areas)
        {
            if (change.Takes(area))
                return true;
        }

        return false;
    }

    /// <summary>Waits until the device has handed back the buffers whose memory was taken away, which it cannot find any more. From another thread.</summary>
    /// <param name="change">The change.</param>
    public void WaitUntilUnused(in DmaChange change)
    {
        foreach (var use in Volatile.Read(ref _uses))
            use.WaitUntilUnused(change);
    }

    /// <summary>
    /// Takes all chains back that were taken and that the driver does not see handed back, and lets go of their memory: for a queue that has broken, and
    /// touches none of it any more. Whoever goes on at its state finds them again, where they are handed back in the order of their taking.
    /// </summary>
    internal virtual void LetGo()
    {
        foreach (var use in _uses)
        {
            if (!use.IsEmpty)
                use.End();
        }

        _order?.Clear();
    }

    /// <summary>Makes the device side of a form.</summary>
    internal static DeviceRing Create(bool isPacked) =>
        isPacked ? new PackedDeviceRing { WaitsForFar = true } : new SplitDeviceRing { WaitsForFar = true };

    /// <summary>Fetches a ring that is far as it is now.</summary>
    private protected abstract bool TryFetchAll();

    /// <summary>The memory of a ring that is far, for a start.</summary>
    private protected FarMemory MakeFar(DmaPort dma)
    {
        _isUnseen = true;
        return _far = new FarMemory(dma, WaitsForFar);
    }

    /// <summary>The end of a start: a ring that is far is looked at now or later.</summary>
    private protected bool TryBegin(out Fault fault)
    {
        fault = Fault.None;
        if (WaitsForFar || TryFetch(out fault))
            return true;
        Stop();
        return false;
    }

    /// <summary>Kicks are asked for from the place on that comes next now, until the next take.</summary>
    private protected abstract void MarkEnd();

    /// <summary>A start: no chain is known, and the ring lies there.</summary>
    private protected void Begin(in RingLayout layout, DmaPort dma, IovaRange descriptors, IovaRange driver, IovaRange device)
    {
        (_areas[0], _areas[1], _areas[2]) = (descriptors, driver, device);
        _dma = dma;
        _far ??= new FarMemory(dma, waits: false);
        Size = layout.Size;
        _eventIndex = layout.EventIndex;
        _indirectAllowed = layout.Indirect;
        _order = layout.InOrder ? new UsedOrder(layout.Size) : null;
        _copied = 0;
        _isHeldUp = false;
        _start = Interlocked.Increment(ref _starts);
        Volatile.Write(ref _uses, []);
    }

    /// <summary>Has <see cref="WaitUntilUnused"/> know of a chain, before its first look-up. Allocates at a chain's first turn after a start.</summary>
    private protected void Enlist(DescriptorChain chain)
    {
        if (chain.KnownSince == _start)
            return;
        chain.KnownSince = _start;
        Volatile.Write(ref _uses, [.. _uses, chain.Use]);
    }
}
