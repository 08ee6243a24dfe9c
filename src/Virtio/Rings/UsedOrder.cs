namespace Virtbus.Virtio.Rings;

/// <summary>
/// The order in which buffers were taken, and those that were handed back before their turn: with VIRTIO_F_IN_ORDER (VIRTIO 1.2, 2.7.9 and 2.8.9)
/// the driver sees them in that order, whatever the one is in which the device is done with them. The queue's thread uses it.
/// </summary>
/// <param name="size">Queue size: no driver has more buffers out than descriptors.</param>
internal sealed class UsedOrder(int size)
{
    private readonly Held[] _held = new Held[size];
    private int _next;
    private int _first;
    private int _count;

    /// <summary>Whether none is out.</summary>
    internal bool IsEmpty => _count == 0;

    /// <summary>A chain was taken; false when as many are out as there are descriptors.</summary>
    internal bool TryTake(DescriptorChain chain)
    {
        if (_count == _held.Length)
            return false;
        chain.Turn = _next;
        _held[_next].IsDone = false;
        _next = Behind(_next);
        _count++;
        return true;
    }

    /// <summary>The one that was taken last is as if it had not been.</summary>
    internal void PutBack()
    {
        _next = _next == 0 ? _held.Length - 1 : _next - 1;
        _count--;
    }

    /// <summary>The device is done with a chain.</summary>
    internal void Complete(DescriptorChain chain, uint written) =>
        _held[chain.Turn] = Held.Of(chain, written);

    /// <summary>The device is done with a chain whose turn it is, so that it need not be held; false when others are before it.</summary>
    internal bool TryPass(DescriptorChain chain)
    {
        if (chain.Turn != _first)
            return false;
        _first = Behind(_first);
        _count--;
        return true;
    }

    /// <summary>Takes the next one whose turn it is; false when the device is not done with it.</summary>
    internal bool TryEnd(out Held held)
    {
        held = _held[_first];
        if (_count == 0 || !held.IsDone)
            return false;
        _first = Behind(_first);
        _count--;
        return true;
    }

    internal void Clear()
    {
        (_next, _first, _count) = (0, 0, 0);
    }

    private int Behind(int turn) => turn == _held.Length - 1 ? 0 : turn + 1;

    /// <summary>A buffer that the device is done with.</summary>
    /// <param name="Head">Its name.</param>
    /// <param name="Slots">Descriptors of the ring that it took.</param>
    /// <param name="Written">Bytes written to it.</param>
    /// <param name="IsWhole">Whether that is all that it has room for: then one behind it may stand for it.</param>
    /// <param name="IsDone">Whether the device is done with it.</param>
    internal record struct Held(ushort Head, int Slots, uint Written, bool IsWhole, bool IsDone)
    {
        internal static Held Of(in RingRun run, uint written) => new(run.Head, 1, written, IsWhole: written >= (uint)run.Length, IsDone: true);

        internal static Held Of(DescriptorChain chain, uint written) => new(chain.Head, chain.Slots, written, IsWhole: written >= chain.Room, IsDone: true);
    }
}
