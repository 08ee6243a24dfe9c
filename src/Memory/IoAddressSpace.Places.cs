using Virtbus.Memory.Dma;

namespace Virtbus.Memory;

/// <content>Where there is room, and the peers whose memory is mapped.</content>
public sealed partial class IoAddressSpace
{
    private bool TryFindGap(ulong size, ulong alignment, IovaRange reserved, out Iova start)
    {
        var at = _options.Lowest.Value;
        while (true)
        {
            var first = (at + alignment - 1) & ~(alignment - 1);
            start = new Iova(first);
            if (first < at || size - 1 > ulong.MaxValue - first || first + (size - 1) > _options.Highest.Value)
                return false;
            // What overlaps here overlaps at every start up to its own end.
            var last = first + (size - 1);
            ulong blocked;
            if (_index.AtOrBelow(last) is { } below && below.Last >= first)
                blocked = below.Last;
            else if (last >= reserved.Start.Value && first <= reserved.Last)
                blocked = reserved.Last;
            else
                return true;
            if (blocked == ulong.MaxValue)
                return false;
            at = blocked + 1;
        }
    }

    private int AddPeer(IRemoteMemory memory)
    {
        var free = -1;
        for (var i = 0; i < _peers.Length; i++)
        {
            if (ReferenceEquals(_peers[i].Memory, memory))
            {
                _peers[i].Count++;
                return i;
            }

            if (_peers[i].Count == 0)
                free = i;
        }

        if (free < 0)
        {
            free = _peers.Length;
            var more = new RemotePeer[free + 1];
            Array.Copy(_peers, more, free);
            // Published before the first mapping that names it.
            more[free] = new RemotePeer(memory, 1);
            Volatile.Write(ref _peers, more);
            return free;
        }

        _peers[free] = new RemotePeer(memory, 1);
        return free;
    }

    private void RemovePeer(int index)
    {
        // After the drain: nobody looks it up any more.
        if (--_peers[index].Count == 0)
            _peers[index] = default;
    }
}
