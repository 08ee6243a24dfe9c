using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;
using static Virtbus.Models.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>
/// One user's way to the device: requests are cut into pieces that fit into its slots, which share a queue with those of other channels. Data is copied through
/// memory of the channel's own that the device reaches, so that the device sees nothing else and no byte of another user. One thread, but for what says otherwise.
/// </summary>
internal sealed class BlkChannel : IBlockChannel
{
    private const int IdBytes = 20;
    // What goes without a copy goes in pieces of that length at most.
    private const int MostUncopied = 1 << 20;
    private const int SectorShift = 9;
    private const byte NoStatus = byte.MaxValue;
    // A request that is cut into many pieces does not keep its thread from others for longer.
    private const int MostRounds = 64;
    // Some ten microseconds.
    private const int MostLooks = 64;
    private const int LookPause = 4;
    // So many go to the device before their user has said that these are all, so that it begins while there are more to come.
    private const int EarlySend = 8;

    private readonly BlkDisk _disk;
    private readonly BlkRing _ring;
    private readonly HostMemory _memory;
    // Where the device sees the memory.
    private readonly ulong _start;
    private readonly EventFd? _signal;
    private readonly Action? _told;
    private readonly BlkPending[] _pendings;
    private readonly BlkSlot[] _slots;
    // By their numbers, which costs less to keep than references do: requests that are free, that wait for slots, and that are done.
    private NumberCircle _free;
    private NumberCircle _waiting;
    private NumberCircle _done;
    // Slots that are free, that have not gone out, and that have come back.
    private NumberCircle _freeSlots;
    private readonly int[] _unsent;
    private int[] _received;
    private int _looks = 1;
    private int _unsentCount;
    // Whether the device was not asked about some that went out.
    private bool _isShown;
    private ulong _ended;

    /// <param name="disk">The disk.</param>
    /// <param name="ring">The queue that it uses.</param>
    /// <param name="buffer">Memory of <see cref="BlkLayout.BytesFor"/> the depth, that the device reaches; it stays the disk's.</param>
    /// <param name="depth">The most requests in work.</param>
    /// <param name="told">Called instead of a signal, on the thread that interrupts; null for the signal.</param>
    internal BlkChannel(BlkDisk disk, BlkRing ring, DmaBuffer buffer, int depth, Action? told = null)
    {
        _disk = disk;
        _ring = ring;
        Memory = buffer;
        _start = buffer.Address.Value;
        _told = told;
        _signal = told is null ? new EventFd() : null;
        // Who is late finds the memory, if not the device.
        _memory = buffer.Memory.Acquire();
        var slots = BlkLayout.SlotsFor(depth);
        _pendings = new BlkPending[depth];
        for (var i = 0; i < depth; i++)
            _pendings[i] = new BlkPending(i);
        _free = new NumberCircle(depth);
        _free.Fill();
        _waiting = new NumberCircle(depth);
        _done = new NumberCircle(depth);
        _slots = new BlkSlot[slots];
        for (var i = 0; i < slots; i++)
            _slots[i] = new BlkSlot(this, i, _memory.Take(BlkLayout.HeaderOf(i), BlkLayout.HeaderBytes), _memory.Take(BlkLayout.StatusOf(i), 1));
        _freeSlots = new NumberCircle(slots);
        _freeSlots.Fill();
        _unsent = new int[slots];
        _received = new int[slots];
        Inbox = new int[slots];
    }

    public int Depth => BlkLayout.SlotsFor(_pendings.Length);

    public FileDescriptor? Completion => _signal?.Descriptor;

    // All go by the device.
    public BlockWays Ways => new(0, 0, Volatile.Read(ref _ended));

    /// <summary>Its memory, for the ring's tables.</summary>
    internal DmaBuffer Memory { get; }

    /// <summary>Which slots came back, under the lock of the ring, as all down to <see cref="IsClosed"/>.</summary>
    internal int[] Inbox { get; set; }

    internal int InboxCount { get; set; }

    /// <summary>How many slots are out.</summary>
    internal int Out { get; set; }

    /// <summary>After which reset of the device it lost something to it, as the ring counts them.</summary>
    internal int LostAt { get; set; }

    /// <summary>Whether it is to be woken when something comes back.</summary>
    internal bool IsAsleep { get; set; }

    /// <summary>Whether it waits for room in the queue.</summary>
    internal bool IsStarved { get; set; }

    internal bool IsClosed { get; set; }

    internal BlkRing Ring => _ring;

    internal BlkSlot SlotOf(int number) => _slots[number];

    /// <summary>Wakes who waits for it. On the thread that interrupts, or another channel's.</summary>
    internal void Wake()
    {
        if (_told is { } told)
            told();
        else
            _signal!.SignalByWrite();
    }

    public bool Submit(BlockRequest request)
    {
        if (TryAnswer(request))
            return true;
        if (_free.Count == 0)
        {
            // More than the depth that was asked for.
            request.Result = Errno.EBUSY;
            return true;
        }

        var pending = _pendings[_free.Take()];
        pending.Begin(request);
        if (_waiting.Count > 0 || !TryCut(pending))
            Wait(pending);
        if (_unsentCount >= EarlySend)
            SendOut(isAll: false);
        return false;
    }

    public void Commit()
    {
        if (_waiting.Count > 0 || _unsentCount > 0 || _isShown)
            Send();
    }

    public BlockRequest? TryReap()
    {
        for (var round = 0; _done.Count == 0; round++)
        {
            if (_free.Count == _pendings.Length)
                return null;
            var count = Look();
            if (count == 0)
                return null;
            // Each status is in a line of its own that the device has: they come over together.
            for (var i = 1; i < count; i++)
                _memory.Prefetch(BlkLayout.StatusOf(_received[i]));
            for (var i = 0; i < count; i++)
                TakeBack(_slots[_received[i]]);
            Commit();
            if (_done.Count == 0 && round == MostRounds)
            {
                Wake();
                return null;
            }
        }

        var number = _done.Take();
        _free.Add(number);
        return _pendings[number].End();
    }

    public void Wait(int milliseconds)
    {
        if (_done.Count == 0 && _free.Count < _pendings.Length)
            _signal!.Wait(TimeSpan.FromMilliseconds(milliseconds));
    }

    /// <summary>Closes it; the device may use what is out still, which is memory of the channel's that nobody looks at any more.</summary>
    public void Dispose()
    {
        _ring.Leave(this);
        _disk.Close(this);
        _signal?.Dispose();
        _memory.Dispose();
    }

    // A device that is as fast as its driver would have to interrupt at each batch: so as long as that is worth it, it is looked at some times more.
    private int Look()
    {
        for (var i = 0; i < _looks; i++)
        {
            var count = _ring.Receive(this, ref _received, _unsentCount > 0, mayWait: false);
            if (count != 0)
            {
                _looks = MostLooks;
                return count;
            }

            // What its user has for the device goes there now, and not after the pause.
            if (i == 0)
                Commit();
            Thread.SpinWait(LookPause);
        }

        _looks = Math.Max(1, _looks / 2);
        return _ring.Receive(this, ref _received, _unsentCount > 0, mayWait: true);
    }

    private ulong DataOf(BlkSlot slot) => BlkLayout.DataOf(slot.Index, _pendings.Length);

    private Iova Address(ulong offset) => new(_start + offset);

    // What needs no device.
    private bool TryAnswer(BlockRequest request)
    {
        var info = _disk.Info;
        switch (request.Operation)
        {
            case BlockOperation.Flush when !info.HasWriteCache:
                request.Result = Errno.None;
                return true;
            case BlockOperation.Flush:
                return false;
            case BlockOperation.GetId when _told is null:
                _disk.AnswerIdentity(request);
                return true;
            case BlockOperation.GetId:
                return false;
            case BlockOperation.Discard when info.MaxDiscard == 0:
            case BlockOperation.WriteZeroes when info.MaxWriteZeroes == 0:
                request.Result = Errno.EOPNOTSUPP;
                return true;
            default:
                request.Result = Errno.None;
                return request.Length == 0;
        }
    }

    private void Wait(BlkPending pending)
    {
        _waiting.Add(pending.Number);
        pending.IsWaiting = true;
    }

    private void Send()
    {
        while (_waiting.Count > 0 && _freeSlots.Count > 0)
        {
            var pending = _pendings[_waiting.First];
            if (pending.Result == Errno.None && !TryCut(pending))
                break;
            _waiting.Take();
            pending.IsWaiting = false;
            if (pending.Out == 0)
                Finish(pending);
        }

        if (_unsentCount > 0 || _isShown)
            SendOut(isAll: true);
    }

    private void SendOut(bool isAll)
    {
        _isShown = !isAll;
        var sent = _ring.Send(this, _unsent.AsSpan(0, _unsentCount), isAll);
        _unsentCount -= sent;
        if (sent > 0 && _unsentCount > 0)
            Array.Copy(_unsent, sent, _unsent, 0, _unsentCount);
    }

    // Into pieces, as far as there are slots for them; false when some are left to cut.
    private bool TryCut(BlkPending pending)
    {
        while (_freeSlots.Count > 0)
        {
            var number = _freeSlots.Take();
            var slot = _slots[number];
            slot.Of = pending.Number;
            pending.Out++;
            Prepare(pending, slot);
            _unsent[_unsentCount++] = number;
            if (!IsCut(pending))
                return true;
        }

        return false;
    }

    // Whether more pieces are to come.
    private static bool IsCut(BlkPending pending) => pending.Operation is not (BlockOperation.Flush or BlockOperation.GetId) && pending.Done < pending.Request.Length;

    // struct virtio_blk_req (5.2.6): le32 type, le32 reserved, le64 sector; data; u8 status.
    private void Prepare(BlkPending pending, BlkSlot slot)
    {
        var request = pending.Request;
        slot.Status = NoStatus;
        slot.Keep(0);
        (slot.Length, slot.IsCopied) = (0, false);
        slot.Place = pending.Place;
        var sector = (ulong)(request.Offset + pending.Done) >> SectorShift;
        switch (pending.Operation)
        {
            case BlockOperation.Read or BlockOperation.Write:
                WriteHeader(slot, pending.Operation == BlockOperation.Read ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, sector);
                if (!TryAddUncopied(pending, slot))
                    AddCopy(pending, slot);
                break;
            case BlockOperation.GetId:
                WriteHeader(slot, VIRTIO_BLK_T_GET_ID, 0);
                slot.Add(Address(DataOf(slot)), IdBytes, true);
                (slot.Length, slot.IsCopied) = (IdBytes, true);
                break;
            case BlockOperation.Discard or BlockOperation.WriteZeroes:
                AddRange(pending, slot, sector);
                break;
            default:
                WriteHeader(slot, VIRTIO_BLK_T_FLUSH, 0);
                break;
        }

        slot.Add(Address(BlkLayout.StatusOf(slot.Index)), 1, true);
    }

    // struct virtio_blk_discard_write_zeroes (5.2.6): le64 sector, le32 num_sectors, le32 flags.
    private void AddRange(BlkPending pending, BlkSlot slot, ulong sector)
    {
        var request = pending.Request;
        var isDiscard = pending.Operation == BlockOperation.Discard;
        var length = Math.Min(request.Length - pending.Done, isDiscard ? _disk.Info.MaxDiscard : _disk.Info.MaxWriteZeroes);
        WriteHeader(slot, isDiscard ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES, 0);
        var at = BlkLayout.RangeOf(slot.Index);
        var range = _memory.Take(at, BlkLayout.RangeBytes).AsSpan();
        BinaryPrimitives.WriteUInt64LittleEndian(range, sector);
        BinaryPrimitives.WriteUInt32LittleEndian(range[8..], (uint)(length >> SectorShift));
        var mayUnmap = !isDiscard && request.MayUnmap && _disk.MayUnmap;
        BinaryPrimitives.WriteUInt32LittleEndian(range[12..], mayUnmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0);
        slot.Add(Address(at), BlkLayout.RangeBytes, false);
        pending.Done += length;
    }

    private void WriteHeader(BlkSlot slot, uint type, ulong sector)
    {
        var header = slot.Header;
        BinaryPrimitives.WriteUInt64LittleEndian(header, type);
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], sector);
        slot.Add(Address(BlkLayout.HeaderOf(slot.Index)), BlkLayout.HeaderBytes, false);
    }

    // As far as the runs lie in memory that the device reaches, in whole blocks.
    private bool TryAddUncopied(BlkPending pending, BlkSlot slot)
    {
        var shared = _disk.Shared;
        if (shared.IsEmpty)
            return false;
        var request = pending.Request;
        var isRead = pending.Operation == BlockOperation.Read;
        var most = (int)Math.Min(_disk.MostSegmentBytes, MostUncopied);
        // As most are: one run that goes whole.
        if (pending.Done == 0 && request.Runs is [var only] && (long)only.Length == request.Length && request.Length <= most)
        {
            if (!BlkMemory.TryFind(shared, only, out var start))
                return false;
            slot.Add(start, (uint)only.Length, isRead);
            slot.Length = (int)only.Length;
            pending.Done = request.Length;
            return true;
        }

        var block = _disk.Info.BlockSize;
        var left = (int)Math.Min(request.Length - pending.Done, MostUncopied);
        var length = 0;
        var (place, whole, parts) = (pending.Place, pending.Place, slot.Parts.Length);
        while (left > 0 && slot.Parts.Length < _disk.MostSegments + 1)
        {
            var run = place.Take(request.Runs, Math.Min(left, most), out place);
            if (!BlkMemory.TryFind(shared, run, out var address))
                break;
            slot.Add(address, (uint)run.Length, isRead);
            (length, left) = (length + (int)run.Length, left - (int)run.Length);
            if ((length & (block - 1)) == 0)
                (slot.Length, whole, parts) = (length, place, slot.Parts.Length);
        }

        // What ends inside of a block goes by the next piece.
        slot.Keep(parts);
        slot.IsCopied = false;
        pending.Place = whole;
        pending.Done += slot.Length;
        return slot.Length > 0;
    }

    private void AddCopy(BlkPending pending, BlkSlot slot)
    {
        var request = pending.Request;
        var length = (int)Math.Min(request.Length - pending.Done, _disk.MostCopied);
        var isWrite = pending.Operation == BlockOperation.Write;
        slot.Length = length;
        slot.IsCopied = true;
        pending.Place = Copy(request.Runs, slot, length, isWrite ? CopyWay.In : CopyWay.None);
        if (!isWrite && _disk.MustClear)
            ClearData(slot, length);
        slot.Add(Address(DataOf(slot)), (uint)length, !isWrite);
        pending.Done += length;
    }

    // Goes over the runs from a slot's place on.
    private BlkPlace Copy(ReadOnlySpan<IoVector> runs, BlkSlot slot, int length, CopyWay way)
    {
        var place = slot.Place;
        var data = DataOf(slot);
        for (var done = 0; done < length;)
        {
            var part = place.Take(runs, length - done, out place);
            if (way == CopyWay.In)
                _memory.Write(data + (ulong)done, part.AsSpan());
            else if (way == CopyWay.Out)
                _memory.Read(data + (ulong)done, part.AsSpan());
            done += (int)part.Length;
        }

        return place;
    }

    private void ClearData(BlkSlot slot, int length)
    {
        Span<byte> zeros = stackalloc byte[512];
        zeros.Clear();
        for (var done = 0; done < length; done += zeros.Length)
            _memory.Write(DataOf(slot) + (ulong)done, zeros);
    }

    private void TakeBack(BlkSlot slot)
    {
        if (slot.Outcome == BlkOutcome.Again)
        {
            slot.Status = NoStatus;
            _unsent[_unsentCount++] = slot.Index;
            return;
        }

        var pending = _pendings[slot.Of];
        var error = slot.Outcome == BlkOutcome.Failed ? slot.Error : Judge(pending, slot);
        if (error == Errno.None && slot.IsCopied && pending.Operation is BlockOperation.Read or BlockOperation.GetId)
            Copy(pending.Request.Runs, slot, slot.Length, CopyWay.Out);
        if (error != Errno.None && pending.Result == Errno.None)
            pending.Result = error;
        _freeSlots.Add(slot.Index);
        if (--pending.Out == 0 && !pending.IsWaiting)
            Finish(pending);
    }

    // What the device says of a request, looked at once.
    private Errno Judge(BlkPending pending, BlkSlot slot)
    {
        var status = Volatile.Read(ref slot.Status);
        if (status == VIRTIO_BLK_S_UNSUPP)
            return Errno.EOPNOTSUPP;
        // What was not written is nothing that the disk has (VIRTIO 1.3, 2.7.8.2); older devices say nothing good there. Many do not count the status, which is
        // theirs all the same: it was none before.
        var least = pending.Operation == BlockOperation.Read ? (uint)slot.Length : 0;
        return status == VIRTIO_BLK_S_OK && (slot.Written >= least || _disk.MustClear) ? Errno.None : Errno.EIO;
    }

    private void Finish(BlkPending pending)
    {
        var isWritten = pending.Operation is BlockOperation.Write or BlockOperation.WriteZeroes or BlockOperation.Discard;
        if (isWritten && pending.Result == Errno.None && pending.Request.IsDurable && _disk.Info.HasWriteCache)
        {
            pending.Operation = BlockOperation.Flush;
            Wait(pending);
            return;
        }

        _done.Add(pending.Number);
        Volatile.Write(ref _ended, _ended + 1);
    }

    private enum CopyWay
    {
        None,
        In,
        Out,
    }
}
