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
    // Used buffers are shown to the driver at least this often, so that both sides work at the same time.
    private const int BatchSize = 16;
    private const int MaxInFlight = 128;

    // Runs beyond one for each descriptor, for buffers that cross region borders.
    private const int SpareRuns = 64;

    private readonly VirtioBlkDevice _device;
    private readonly IBlockBackend _backend;
    private readonly int _blockMask;
    private IBlockChannel? _channel;
    private Buffer[] _free = [];
    // What is with the device, as it was taken. It is handed back in that order too: a front end that loses its back end in the middle, and has
    // another one go on at the used index, as QEMU does, then loses nothing and has nothing done that the driver knows to be done.
    private readonly Buffer[] _order = new Buffer[MaxInFlight];
    private uint _first;
    private uint _last;
    private int _freeCount;
    private int _made;
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

    public bool IsWaiting => _freeCount < _made;

    public bool IsFull => _freeCount == 0 && _made == _free.Length;

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
        // After a bug requests were left in the middle, and their places with them.
        var isWhole = _freeCount == _made;
        _channel ??= _backend.OpenChannel(MaxInFlight);
        var capacity = Math.Max(Math.Max(ring.Size, SegMax + 2) + SpareRuns, _capacity);
        if (isWhole && capacity <= _capacity)
            return;
        _capacity = capacity;
        _free = new Buffer[Math.Clamp(_channel.Depth, 1, MaxInFlight)];
        _free[0] = new Buffer(capacity);
        _freeCount = _made = 1;
        _first = _last = 0;
    }

    public bool Process(out Fault fault)
    {
        fault = Fault.None;
        var taken = 0;
        while (taken < BatchSize && HasPlace())
        {
            var buffer = _free[_freeCount - 1];
            if (!_queue.TryTake(buffer.Chain, out fault))
                break;
            _freeCount--;
            taken++;
            buffer.IsDone = false;
            _order[_last++ % MaxInFlight] = buffer;
            if (!TryBegin(buffer, out fault))
            {
                _last--;
                _free[_freeCount++] = buffer;
                break;
            }
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

    // A place is made when so many requests are in flight for the first time, and stays: a disk that ends all in Submit never needs a second.
    private bool HasPlace()
    {
        if (_freeCount == 0 && _made < _free.Length)
        {
            _free[_freeCount++] = new Buffer(_capacity);
            _made++;
        }

        return _freeCount > 0;
    }

    private bool TryBegin(Buffer buffer, out Fault fault)
    {
        // struct virtio_blk_req (5.2.6): le32 type, le32 reserved, le64 sector; data; u8 status. Split over descriptors as the driver likes.
        Span<byte> header = stackalloc byte[HeaderSize];
        var chain = buffer.Chain;
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
                Submit(buffer, BlockOperation.Read, sector, chain.WritableLength);
                break;
            case VIRTIO_BLK_T_OUT:
                Submit(buffer, BlockOperation.Write, sector, chain.ReadableLength);
                break;
            case VIRTIO_BLK_T_FLUSH:
                buffer.Request.Operation = BlockOperation.Flush;
                buffer.Request.Length = 0;
                Forward(buffer.Request);
                break;
            case VIRTIO_BLK_T_GET_ID:
                End(buffer, VIRTIO_BLK_S_OK, chain.Write(_device.Serial));
                break;
            default:
                End(buffer, VIRTIO_BLK_S_UNSUPP, 0);
                break;
        }

        return true;
    }

    private void Submit(Buffer buffer, BlockOperation operation, ulong sector, uint length)
    {
        var info = _backend.Info;
        var sectors = (ulong)info.Capacity >> SectorShift;
        var wrong = sector > sectors || (length >> SectorShift) > sectors - sector || (length & _blockMask) != 0 ||
            ((sector << SectorShift) & (ulong)_blockMask) != 0 || (operation == BlockOperation.Write && info.IsReadOnly);
        if (wrong)
        {
            End(buffer, VIRTIO_BLK_S_IOERR, 0);
            return;
        }

        var request = buffer.Request;
        request.Operation = operation;
        request.SetRuns(operation == BlockOperation.Read ? buffer.Chain.Writable : buffer.Chain.Readable);
        request.Offset = (long)(sector << SectorShift);
        request.Length = length;
        Forward(request);
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
        var buffer = (Buffer)request.Owner!;
        if (request.Result != Errno.None)
        {
            End(buffer, VIRTIO_BLK_S_IOERR, 0);
            return;
        }

        if (request.Operation == BlockOperation.Write && IsWritethrough)
        {
            // The same request goes round once more, as a flush; its length still says what was written.
            request.Operation = BlockOperation.Flush;
            Forward(request);
            return;
        }

        _bytes += (ulong)request.Length;
        End(buffer, VIRTIO_BLK_S_OK, request.Operation == BlockOperation.Read ? (uint)request.Length : 0);
    }

    private void End(Buffer buffer, byte status, uint written)
    {
        if (status != VIRTIO_BLK_S_OK)
            _errors++;
        _requests++;
        buffer.Chain.WriteTrailer(status);
        buffer.IsDone = true;
        buffer.Written = written + 1;
        while (_first != _last && _order[_first % MaxInFlight] is { IsDone: true } next)
        {
            _first++;
            _queue.Complete(next.Chain, next.Written);
            _free[_freeCount++] = next;
        }
    }

    /// <summary>A place for one request in flight: the driver's buffer and what the back end is asked.</summary>
    private sealed class Buffer
    {
        internal Buffer(int capacity)
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
