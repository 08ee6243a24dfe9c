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
    /// <summary>The most pieces that are out at once.</summary>
    internal const int MostSlots = 64;

    /// <summary>The most bytes of a piece whose data is copied.</summary>
    internal const int CopyBytes = 64 << 10;

    private const int HeaderBytes = 16;
    private const int RangeBytes = 16;
    private const int IdBytes = 20;
    // Of a slot: header and range, which the device reads, and status, which it writes, in one cache line, since it goes to and fro with each request; the table.
    private const int StatusOffset = HeaderBytes + RangeBytes;
    private const int FrameBytes = StatusOffset + 1;
    private const int TableOffset = 64;
    private const int SlotBytes = 512;
    // What goes without a copy goes in pieces of that length at most.
    private const int MostUncopied = 1 << 20;
    internal const int MostParts = (SlotBytes - TableOffset) / SplitRing.DescriptorSize;
    private const int SectorShift = 9;
    private const byte NoStatus = byte.MaxValue;
    // A request that is cut into many pieces does not keep its thread from others for longer.
    private const int MostRounds = 64;
    // Some ten microseconds.
    private const int MostLooks = 64;
    private const int LookPause = 4;

    private readonly BlkDisk _disk;
    private readonly BlkRing _ring;
    private readonly HostMemory _memory;
    private readonly ulong _dataOffset;
    private readonly EventFd? _signal;
    private readonly Action? _told;
    private readonly BlkPending[] _pendings;
    private readonly BlkPending[] _waiting;
    private readonly BlkSlot[] _slots;
    private readonly BlkSlot[] _unsent;
    private readonly BlockRequest[] _done;
    private BlkSlot[] _received;
    private int _looks = 1;
    private int _freePendings;
    private int _firstWaiting;
    private int _waitingCount;
    private int _freeSlots;
    private int _unsentCount;
    private int _firstDone;
    private int _doneCount;
    private ulong _ended;

    /// <param name="disk">The disk.</param>
    /// <param name="ring">The queue that it uses.</param>
    /// <param name="buffer">Memory of <see cref="BytesFor"/> the depth, that the device reaches; it stays the disk's.</param>
    /// <param name="depth">The most requests in work.</param>
    /// <param name="told">Called instead of a signal, on the thread that interrupts; null for the signal.</param>
    internal BlkChannel(BlkDisk disk, BlkRing ring, DmaBuffer buffer, int depth, Action? told = null)
    {
        _disk = disk;
        _ring = ring;
        Memory = buffer;
        _told = told;
        _signal = told is null ? new EventFd() : null;
        // Who is late finds the memory, if not the device.
        _memory = buffer.Memory.Acquire();
        var slots = SlotsFor(depth);
        _dataOffset = DataOffset(slots);
        _pendings = new BlkPending[depth];
        for (var i = 0; i < depth; i++)
            _pendings[i] = new BlkPending();
        _freePendings = depth;
        _waiting = new BlkPending[depth];
        _done = new BlockRequest[depth];
        _slots = new BlkSlot[slots];
        for (var i = 0; i < slots; i++)
            _slots[i] = new BlkSlot(this, i, MostParts);
        _freeSlots = slots;
        _unsent = new BlkSlot[slots];
        _received = new BlkSlot[slots];
        Inbox = new BlkSlot[slots];
    }

    public int Depth => Math.Min(_pendings.Length, MostSlots);

    public FileDescriptor? Completion => _signal?.Descriptor;

    // All go by the device.
    public BlockWays Ways => new(0, 0, Volatile.Read(ref _ended));

    /// <summary>Its memory, for the ring's tables.</summary>
    internal DmaBuffer Memory { get; }

    /// <summary>What came back, under the lock of the ring, as all down to <see cref="IsClosed"/>.</summary>
    internal BlkSlot[] Inbox { get; set; }

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

    internal static ulong BytesFor(int depth) => DataOffset(SlotsFor(depth)) + ((ulong)SlotsFor(depth) * CopyBytes);

    internal static ulong TableOf(BlkSlot slot) => At(slot) + TableOffset;

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
        if (_freePendings <= _doneCount)
        {
            // More than the depth that was asked for.
            request.Result = Errno.EBUSY;
            return true;
        }

        var pending = _pendings[--_freePendings];
        pending.Begin(request);
        Wait(pending);
        return false;
    }

    public void Commit()
    {
        if (_waitingCount > 0 || _unsentCount > 0)
            Send();
    }

    public BlockRequest? TryReap()
    {
        for (var round = 0; _doneCount == 0; round++)
        {
            if (_freePendings == _pendings.Length)
                return null;
            var count = Look();
            if (count == 0)
                return null;
            for (var i = 0; i < count; i++)
                TakeBack(_received[i]);
            Commit();
            if (_doneCount == 0 && round == MostRounds)
            {
                Wake();
                return null;
            }
        }

        var request = _done[_firstDone];
        _firstDone = _firstDone + 1 == _done.Length ? 0 : _firstDone + 1;
        _doneCount--;
        return request;
    }

    public void Wait(int milliseconds)
    {
        if (_doneCount == 0 && _freePendings < _pendings.Length)
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

    private static int SlotsFor(int depth) => Math.Min(depth, MostSlots);

    private static ulong At(BlkSlot slot) => (ulong)slot.Index * SlotBytes;

    private static ulong DataOffset(int slots) => ((ulong)slots * SlotBytes + (CopyBytes - 1)) & ~(CopyBytes - 1UL);

    private ulong DataOf(BlkSlot slot) => _dataOffset + ((ulong)slot.Index * CopyBytes);

    private Iova Address(ulong offset) => new(Memory.Address.Value + offset);

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
        var at = _firstWaiting + _waitingCount++;
        _waiting[at < _waiting.Length ? at : at - _waiting.Length] = pending;
        pending.IsWaiting = true;
    }

    private void Send()
    {
        while (_waitingCount > 0 && _freeSlots > 0)
        {
            var pending = _waiting[_firstWaiting];
            if (pending.Result == Errno.None)
            {
                var slot = _slots[--_freeSlots];
                pending.Out++;
                slot.Of = pending;
                Prepare(pending, slot);
                _unsent[_unsentCount++] = slot;
                if (IsCut(pending))
                    continue;
            }

            _firstWaiting = _firstWaiting + 1 == _waiting.Length ? 0 : _firstWaiting + 1;
            _waitingCount--;
            pending.IsWaiting = false;
            if (pending.Out == 0)
                Finish(pending);
        }

        if (_unsentCount == 0)
            return;
        var sent = _ring.Send(this, _unsent.AsSpan(0, _unsentCount));
        _unsentCount -= sent;
        if (sent > 0 && _unsentCount > 0)
            Array.Copy(_unsent, sent, _unsent, 0, _unsentCount);
    }

    // Whether more pieces are to come.
    private static bool IsCut(BlkPending pending) => pending.Operation is not (BlockOperation.Flush or BlockOperation.GetId) && pending.Done < pending.Request.Length;

    // struct virtio_blk_req (5.2.6): le32 type, le32 reserved, le64 sector; data; u8 status.
    private void Prepare(BlkPending pending, BlkSlot slot)
    {
        Span<byte> header = stackalloc byte[FrameBytes];
        header.Clear();
        header[StatusOffset] = NoStatus;
        var request = pending.Request;
        var at = At(slot);
        slot.Keep(0);
        (slot.Length, slot.IsCopied) = (0, false);
        slot.Place = pending.Place;
        var sector = (ulong)(request.Offset + pending.Done) >> SectorShift;
        switch (pending.Operation)
        {
            case BlockOperation.Read or BlockOperation.Write:
                BinaryPrimitives.WriteUInt32LittleEndian(header, pending.Operation == BlockOperation.Read ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT);
                BinaryPrimitives.WriteUInt64LittleEndian(header[8..], sector);
                slot.Add(new DriverBuffer(Address(at), HeaderBytes, false));
                if (!TryAddUncopied(pending, slot))
                    AddCopy(pending, slot);
                break;
            case BlockOperation.GetId:
                BinaryPrimitives.WriteUInt32LittleEndian(header, VIRTIO_BLK_T_GET_ID);
                slot.Add(new DriverBuffer(Address(at), HeaderBytes, false));
                slot.Add(new DriverBuffer(Address(DataOf(slot)), IdBytes, true));
                (slot.Length, slot.IsCopied) = (IdBytes, true);
                break;
            case BlockOperation.Discard or BlockOperation.WriteZeroes:
                AddRange(pending, slot, header, sector);
                break;
            default:
                BinaryPrimitives.WriteUInt32LittleEndian(header, VIRTIO_BLK_T_FLUSH);
                slot.Add(new DriverBuffer(Address(at), HeaderBytes, false));
                break;
        }

        _memory.Write(at, header);
        slot.Add(new DriverBuffer(Address(at + StatusOffset), 1, true));
    }

    // struct virtio_blk_discard_write_zeroes (5.2.6): le64 sector, le32 num_sectors, le32 flags. It stands behind the header.
    private void AddRange(BlkPending pending, BlkSlot slot, Span<byte> header, ulong sector)
    {
        var request = pending.Request;
        var isDiscard = pending.Operation == BlockOperation.Discard;
        var length = Math.Min(request.Length - pending.Done, isDiscard ? _disk.Info.MaxDiscard : _disk.Info.MaxWriteZeroes);
        BinaryPrimitives.WriteUInt32LittleEndian(header, isDiscard ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES);
        BinaryPrimitives.WriteUInt64LittleEndian(header[HeaderBytes..], sector);
        BinaryPrimitives.WriteUInt32LittleEndian(header[(HeaderBytes + 8)..], (uint)(length >> SectorShift));
        var mayUnmap = !isDiscard && request.MayUnmap && _disk.MayUnmap;
        BinaryPrimitives.WriteUInt32LittleEndian(header[(HeaderBytes + 12)..], mayUnmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0);
        slot.Add(new DriverBuffer(Address(At(slot)), HeaderBytes, false));
        slot.Add(new DriverBuffer(Address(At(slot) + HeaderBytes), RangeBytes, false));
        pending.Done += length;
    }

    // As far as the runs lie in memory that the device reaches, in whole blocks.
    private bool TryAddUncopied(BlkPending pending, BlkSlot slot)
    {
        var shared = _disk.Shared;
        if (shared.IsEmpty)
            return false;
        var request = pending.Request;
        var block = _disk.Info.BlockSize;
        var left = (int)Math.Min(request.Length - pending.Done, MostUncopied);
        var (length, most) = (0, (int)Math.Min(_disk.MostSegmentBytes, MostUncopied));
        var (place, whole, parts) = (pending.Place, pending.Place, slot.Parts.Length);
        while (left > 0 && slot.Parts.Length < _disk.MostSegments + 1)
        {
            var run = place.Take(request.Runs, Math.Min(left, most), out place);
            if (!BlkMemory.TryFind(shared, run, out var address))
                break;
            slot.Add(new DriverBuffer(address, (uint)run.Length, pending.Operation == BlockOperation.Read));
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
        slot.Add(new DriverBuffer(Address(DataOf(slot)), (uint)length, !isWrite));
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

    private void ClearStatus(BlkSlot slot) => _memory.Write(At(slot) + StatusOffset, [NoStatus]);

    private void TakeBack(BlkSlot slot)
    {
        if (slot.Outcome == BlkOutcome.Again)
        {
            ClearStatus(slot);
            _unsent[_unsentCount++] = slot;
            return;
        }

        var pending = slot.Of!;
        var error = slot.Outcome == BlkOutcome.Failed ? slot.Error : Judge(pending, slot);
        if (error == Errno.None && slot.IsCopied && pending.Operation is BlockOperation.Read or BlockOperation.GetId)
            Copy(pending.Request.Runs, slot, slot.Length, CopyWay.Out);
        if (error != Errno.None && pending.Result == Errno.None)
            pending.Result = error;
        slot.Of = null;
        _slots[_freeSlots++] = slot;
        if (--pending.Out == 0 && !pending.IsWaiting)
            Finish(pending);
    }

    // What the device says of a request, looked at once.
    private Errno Judge(BlkPending pending, BlkSlot slot)
    {
        Span<byte> status = stackalloc byte[1];
        _memory.Read(At(slot) + StatusOffset, status);
        if (status[0] == VIRTIO_BLK_S_UNSUPP)
            return Errno.EOPNOTSUPP;
        // What was not written is nothing that the disk has (VIRTIO 1.3, 2.7.8.2); older devices say nothing good there. Many do not count the status, which is
        // theirs all the same: it was none before.
        var least = pending.Operation == BlockOperation.Read ? (uint)slot.Length : 0;
        return status[0] == VIRTIO_BLK_S_OK && (slot.Written >= least || _disk.MustClear) ? Errno.None : Errno.EIO;
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

        var at = _firstDone + _doneCount++;
        _done[at < _done.Length ? at : at - _done.Length] = pending.Request;
        pending.End();
        _pendings[_freePendings++] = pending;
        Volatile.Write(ref _ended, _ended + 1);
    }

    private enum CopyWay
    {
        None,
        In,
        Out,
    }
}
