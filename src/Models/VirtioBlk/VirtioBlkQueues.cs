using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Models.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Models.VirtioBlk;

/// <summary>
/// The data path of one request queue: chain, request, backend, used ring. Runs on the queue's thread; a request takes no lock, no task
/// and no memory.
/// </summary>
internal sealed class VirtioBlkQueues : IQueueProcessor
{
    // Used buffers are shown to the driver at least this often, so that both sides work at the same time. What the host is asked by a system call
    // comes in larger batches than what is done at once.
    private const int HostBatch = 16;
    private const int QuickBatch = 8;
    private const int MaxInFlight = 128;

    // Runs beyond one for each descriptor, for buffers that cross region borders.
    private const int SpareRuns = 64;

    private readonly VirtioBlkDevice _device;
    private readonly IBlockBackend _backend;
    private readonly int _blockMask;
    private IBlockChannel? _channel;
    // Places for requests, gone round: from the first on so many are with the device, as they were taken. They are handed back in that order too: a
    // front end that loses its back end in the middle, and has another one go on at the used index, as QEMU does, then loses nothing and has
    // nothing done that the driver knows to be done.
    private Place[] _places = [];
    // Their chains, side by side, for the ring to take into.
    private DescriptorChain[] _chains = [];
    private int _mostPlaces;
    private int _batch;
    private int _first;
    private int _count;
    private int _capacity;
    private DeviceRing _queue = null!;
    private bool _configWce;
    private bool _flushTaken;
    private ulong _requests;
    private ulong _bytes;
    private ulong _errors;

    internal VirtioBlkQueues(VirtioBlkDevice device, IBlockBackend backend)
    {
        _device = device;
        _backend = backend;
        _blockMask = backend.Info.BlockSize - 1;
    }

    public FileDescriptor? Completion => _channel?.Completion;

    public bool MayBlock => _backend.MayBlock;

    public bool IsWaiting => _count > 0;

    public bool IsFull => _count == _mostPlaces;

    public (ulong Requests, ulong Bytes, ulong Errors) Counters =>
        (Volatile.Read(ref _requests), Volatile.Read(ref _bytes), Volatile.Read(ref _errors));

    public (ulong InPlace, ulong Uring, ulong Worker) Ways => _channel?.Ways is { } ways ? (ways.InPlace, ways.Uring, ways.Worker) : default;

    // Without VIRTIO_BLK_F_FLUSH a driver has no way to ask for durability, so every write is (VIRTIO 1.2, 5.2.6.2).
    private bool IsWritethrough => !_flushTaken || (_configWce && !_device.Writeback);

    public void Start(DeviceRing ring, VirtioFeatures features)
    {
        _queue = ring;
        _device.QueueStarts();
        _configWce = features.Has(VIRTIO_BLK_F_CONFIG_WCE);
        _flushTaken = features.Has(VIRTIO_BLK_F_FLUSH);
        _channel ??= _backend.OpenChannel(MaxInFlight);
        _batch = _channel.Completion is null ? QuickBatch : HostBatch;
        _mostPlaces = _channel.Completion is null ? QuickBatch : Math.Clamp(_channel.Depth, 1, MaxInFlight);
        var capacity = Math.Max(Math.Max(ring.Size, SegMax + 2) + SpareRuns, _capacity);
        // After a bug requests were left in the middle, and their places with them.
        if (_count == 0 && capacity <= _capacity && _places.Length <= _mostPlaces)
            return;
        _capacity = capacity;
        _count = 0;
        _places = [];
        Grow(1);
    }

    public bool Process(out Fault fault)
    {
        fault = Fault.None;
        if (_count == 0)
            _first = 0;
        var taken = 0;
        if (_count < _places.Length || TryGrow())
        {
            var free = _places.Length - _count;
            var next = Wrap(_first + _count);
            // In one stay, and once a turn: what a second one waited for would hold up what the first one took.
            taken = _queue.Take(_chains.AsSpan(next, Math.Min(_batch, Math.Min(free, _places.Length - next))), out fault);
            Begin(next, taken, ref fault);
            if (taken == free && fault == Fault.None)
                TryGrow();
        }

        if (taken > 0)
            _channel!.Commit();
        var reaped = Reap();
        return fault == Fault.None && (taken > 0 || reaped);
    }

    public void Drain()
    {
        while (IsWaiting)
        {
            if (!Reap())
                _channel!.Wait(-1);
        }
    }

    // The channel's end waits for what the host still does with the memory.
    public void Abandon()
    {
        _channel?.Dispose();
        _channel = null;
    }

    public void Dispose() => _channel?.Dispose();

    private int Wrap(int index) => index < _places.Length ? index : index - _places.Length;

    // Places come as so many requests wait at once for the first time, and stay: a disk that is used a little never needs a second.
    private bool TryGrow()
    {
        if (_places.Length >= _mostPlaces || !_queue.HasAvailable())
            return false;
        Grow(Math.Min(_places.Length * 2, _mostPlaces));
        return true;
    }

    private void Grow(int size)
    {
        var places = new Place[size];
        for (var i = 0; i < size; i++)
            places[i] = i < _places.Length ? _places[Wrap(_first + i)] : new Place(_capacity);
        _first = 0;
        _places = places;
        _chains = Array.ConvertAll(places, static place => place.Chain);
    }

    private void Begin(int next, int taken, ref Fault fault)
    {
        for (var i = 0; i < taken; i++)
        {
            var place = _places[next + i];
            place.IsDone = false;
            _count++;
            if (TryBegin(place, out var wrong))
                continue;
            // It and those behind it are as if they had not been taken: whoever goes on with the queue finds them, and what is wrong.
            _count--;
            fault = wrong;
            _queue.PutBack(_chains.AsSpan(next + i, taken - i));
            return;
        }
    }

    private bool TryBegin(Place place, out Fault fault)
    {
        // struct virtio_blk_req (5.2.6): le32 type, le32 reserved, le64 sector; data; u8 status. Split over descriptors as the driver likes.
        Span<byte> header = stackalloc byte[HeaderSize];
        var chain = place.Chain;
        if (!chain.TryTakeReadable(header) || !chain.TryReserveTrailer())
        {
            fault = new Fault(Errno.EPROTO, "a block request has no header or no status byte");
            return false;
        }

        fault = Fault.None;
        var type = BinaryPrimitives.ReadUInt32LittleEndian(header);
        var sector = BinaryPrimitives.ReadUInt64LittleEndian(header[8..]);
        switch (type)
        {
            case VIRTIO_BLK_T_IN:
                Submit(place, BlockOperation.Read, sector, chain.WritableLength);
                break;
            case VIRTIO_BLK_T_OUT:
                Submit(place, BlockOperation.Write, sector, chain.ReadableLength);
                break;
            case VIRTIO_BLK_T_FLUSH:
                place.Request.Operation = BlockOperation.Flush;
                place.Request.Length = 0;
                Forward(place.Request);
                break;
            case VIRTIO_BLK_T_DISCARD:
                SubmitRange(place, BlockOperation.Discard, Discards(_backend.Info), _backend.Info.MaxDiscard);
                break;
            case VIRTIO_BLK_T_WRITE_ZEROES:
                SubmitRange(place, BlockOperation.WriteZeroes, WritesZeroes(_backend.Info), _backend.Info.MaxWriteZeroes);
                break;
            case VIRTIO_BLK_T_GET_ID:
                End(place, VIRTIO_BLK_S_OK, chain.Write(_device.Serial));
                break;
            default:
                End(place, VIRTIO_BLK_S_UNSUPP, 0);
                break;
        }

        return true;
    }

    private void Submit(Place place, BlockOperation operation, ulong sector, uint length)
    {
        if (!IsWithin(sector, length) || (operation == BlockOperation.Write && _backend.Info.IsReadOnly))
        {
            End(place, VIRTIO_BLK_S_IOERR, 0);
            return;
        }

        var request = place.Request;
        request.Operation = operation;
        request.SetRuns(operation == BlockOperation.Read ? place.Chain.Writable : place.Chain.Readable);
        request.Offset = (long)(sector << SectorShift);
        request.Length = length;
        Forward(request);
    }

    // struct virtio_blk_discard_write_zeroes (5.2.6): le64 sector, le32 num_sectors, le32 flags. One a request, as the configuration says.
    private void SubmitRange(Place place, BlockOperation operation, bool isOffered, long most)
    {
        Span<byte> range = stackalloc byte[RangeSize];
        if (!isOffered)
        {
            End(place, _backend.Info.IsReadOnly ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_UNSUPP, 0);
            return;
        }

        if (place.Chain.ReadableLength != RangeSize || !place.Chain.TryTakeReadable(range))
        {
            End(place, VIRTIO_BLK_S_IOERR, 0);
            return;
        }

        var sector = BinaryPrimitives.ReadUInt64LittleEndian(range);
        var count = BinaryPrimitives.ReadUInt32LittleEndian(range[8..]);
        var flags = BinaryPrimitives.ReadUInt32LittleEndian(range[12..]);
        if ((flags & ~(operation == BlockOperation.Discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)) != 0)
        {
            End(place, VIRTIO_BLK_S_UNSUPP, 0);
            return;
        }

        var length = (ulong)count << SectorShift;
        if (count > MostSectors(most) || !IsWithin(sector, length))
        {
            End(place, VIRTIO_BLK_S_IOERR, 0);
            return;
        }

        var request = place.Request;
        request.Operation = operation;
        request.ClearRuns();
        request.Offset = (long)(sector << SectorShift);
        request.Length = (long)length;
        request.MayUnmap = flags != 0;
        Forward(request);
    }

    private bool IsWithin(ulong sector, ulong length)
    {
        var sectors = (ulong)_backend.Info.Capacity >> SectorShift;
        return sector <= sectors && (length >> SectorShift) <= sectors - sector && (length & (ulong)_blockMask) == 0 &&
            ((sector << SectorShift) & (ulong)_blockMask) == 0;
    }

    private void Forward(BlockRequest request)
    {
        if (_channel!.Submit(request))
            Finish(request);
    }

    private bool Reap()
    {
        var any = false;
        while (_channel!.TryReap() is { } request)
        {
            any = true;
            Finish(request);
        }

        return any;
    }

    private void Finish(BlockRequest request)
    {
        var place = (Place)request.Owner!;
        if (request.Result != Errno.None)
        {
            End(place, VIRTIO_BLK_S_IOERR, 0);
            return;
        }

        // No bytes are moved by these.
        if (request.Operation is BlockOperation.Discard or BlockOperation.WriteZeroes)
            request.Length = 0;
        if (request.Operation is BlockOperation.Write or BlockOperation.WriteZeroes && IsWritethrough)
        {
            // The same request goes round once more, as a flush; its length still says what was written.
            request.Operation = BlockOperation.Flush;
            Forward(request);
            return;
        }

        _bytes += (ulong)request.Length;
        End(place, VIRTIO_BLK_S_OK, request.Operation == BlockOperation.Read ? (uint)request.Length : 0);
    }

    private void End(Place place, byte status, uint written)
    {
        if (status != VIRTIO_BLK_S_OK)
            _errors++;
        _requests++;
        place.Chain.WriteTrailer(status);
        place.IsDone = true;
        place.Written = written + 1;
        while (_count > 0 && _places[_first] is { IsDone: true } next)
        {
            _first = Wrap(_first + 1);
            _count--;
            _queue.Complete(next.Chain, next.Written);
        }
    }

    /// <summary>A place for one request in flight: the driver's buffer and what the back end is asked.</summary>
    private sealed class Place
    {
        internal Place(int capacity)
        {
            Chain = new DescriptorChain(capacity);
            Request = new BlockRequest(this);
        }

        internal DescriptorChain Chain { get; }

        internal BlockRequest Request { get; }

        internal bool IsDone { get; set; }

        internal uint Written { get; set; }
    }
}
