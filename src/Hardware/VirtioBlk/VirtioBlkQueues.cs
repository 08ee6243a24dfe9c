using System.Buffers.Binary;
using Virtbus.Hardware.Block;
using Virtbus.Hardware.Virtio;
using Virtbus.Memory.Rings;
using Virtbus.Platform;
using static Virtbus.Hardware.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Hardware.VirtioBlk;

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
    private BlockRequest[] _free = [];
    private int _freeCount;
    private int _capacity;
    private VirtQueue _queue = null!;
    private bool _configWce;
    private bool _flushTaken;
    private ulong _requests;
    private ulong _bytes;
    private ulong _errors;

    internal VirtioBlkQueues(VirtioBlkDevice device, IBlockBackend backend)
    {
        _device = device;
        _backend = backend;
        _blockMask = backend.BlockSize - 1;
    }

    public FileDescriptor? Completion => _channel?.Completion;

    public (ulong Requests, ulong Bytes, ulong Errors) Counters =>
        (Volatile.Read(ref _requests), Volatile.Read(ref _bytes), Volatile.Read(ref _errors));

    // Without VIRTIO_BLK_F_FLUSH a driver has no way to ask for durability, so every write is (VIRTIO 1.2, 5.2.6.2).
    private bool IsWritethrough => !_flushTaken || (_configWce && !_device.Writeback);

    public void Start(VirtQueue queue, ulong features)
    {
        _queue = queue;
        _device.QueueStarts();
        _configWce = (features & VIRTIO_BLK_F_CONFIG_WCE) != 0;
        _flushTaken = (features & VIRTIO_BLK_F_FLUSH) != 0;
        var isWhole = _freeCount == _free.Length;
        if (!isWhole)
        {
            // A bug ended the queue in the middle of requests: they are the old channel's, and go with it.
            _channel?.Dispose();
            _channel = null;
        }
        _channel ??= _backend.OpenChannel(MaxInFlight);
        var capacity = Math.Max(Math.Max(queue.Size, SegMax + 2) + SpareRuns, _capacity);
        if (isWhole && capacity <= _capacity)
            return;
        _capacity = capacity;
        _freeCount = Math.Clamp(_channel.Depth, 1, MaxInFlight);
        _free = new BlockRequest[_freeCount];
        for (var i = 0; i < _freeCount; i++)
            _free[i] = new BlockRequest(capacity);
    }

    public bool Process(out Fault fault)
    {
        fault = Fault.None;
        var taken = 0;
        while (taken < BatchSize && _freeCount > 0)
        {
            var request = _free[_freeCount - 1];
            if (!_queue.TryTake(request.Chain, out fault))
                break;
            _freeCount--;
            taken++;
            if (!TryBegin(request, out fault))
            {
                _free[_freeCount++] = request;
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
        if (_channel is null || _freeCount == _free.Length)
            return;
        using var completion = new Epoll();
        if (_channel.Completion is { } descriptor)
            completion.Add(descriptor, 0, edge: false);
        while (_freeCount < _free.Length)
        {
            if (!Reap())
                completion.Wait(-1);
        }
    }

    public void Dispose() => _channel?.Dispose();

    private bool TryBegin(BlockRequest request, out Fault fault)
    {
        // struct virtio_blk_req (5.2.6): le32 type, le32 reserved, le64 sector; data; u8 status. Split over descriptors as the driver likes.
        Span<byte> header = stackalloc byte[HeaderSize];
        var chain = request.Chain;
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
                Submit(request, BlockOperation.Read, sector, chain.WritableLength);
                break;
            case VIRTIO_BLK_T_OUT:
                Submit(request, BlockOperation.Write, sector, chain.ReadableLength);
                break;
            case VIRTIO_BLK_T_FLUSH:
                request.Operation = BlockOperation.Flush;
                request.Length = 0;
                Forward(request);
                break;
            case VIRTIO_BLK_T_GET_ID:
                End(request, VIRTIO_BLK_S_OK, chain.Write(_device.Serial));
                break;
            default:
                End(request, VIRTIO_BLK_S_UNSUPP, 0);
                break;
        }

        return true;
    }

    private void Submit(BlockRequest request, BlockOperation operation, ulong sector, uint length)
    {
        var sectors = (ulong)_backend.Capacity >> SectorShift;
        var wrong = sector > sectors || (length >> SectorShift) > sectors - sector || (length & _blockMask) != 0 ||
            ((sector << SectorShift) & (ulong)_blockMask) != 0 || (operation == BlockOperation.Write && _backend.IsReadOnly);
        if (wrong)
        {
            End(request, VIRTIO_BLK_S_IOERR, 0);
            return;
        }

        request.Operation = operation;
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
        if (request.Result != Errno.None)
        {
            End(request, VIRTIO_BLK_S_IOERR, 0);
            return;
        }

        if (request.Operation == BlockOperation.Write && IsWritethrough)
        {
            // The same request goes round once more, as a flush; its length still says what was written.
            request.Operation = BlockOperation.Flush;
            Forward(request);
            return;
        }

        _bytes += request.Length;
        End(request, VIRTIO_BLK_S_OK, request.Operation == BlockOperation.Read ? request.Length : 0);
    }

    private void End(BlockRequest request, byte status, uint written)
    {
        if (status != VIRTIO_BLK_S_OK)
            _errors++;
        _requests++;
        request.Chain.WriteTrailer(status);
        _queue.Complete(request.Chain.Head, written + 1);
        _free[_freeCount++] = request;
    }
}
