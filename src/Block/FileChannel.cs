using Virtbus.Platform;
using Virtbus.Platform.IoUring;

namespace Virtbus.Block;

/// <summary>
/// One queue's way into a file. What the page cache has is read on the caller's thread, and what cannot wait is done there; the rest goes by
/// io_uring, a batch by one call, or by threads that may wait. Used by one thread at a time but for <see cref="Work"/>.
/// </summary>
internal sealed class FileChannel : IBlockChannel
{
    private const int BufferedIndex = 0;
    private const int DirectIndex = 1;

    private readonly FileBackend _backend;
    private readonly FileDescriptor _file;
    private readonly FileDescriptor? _own;
    private readonly FileDescriptor? _direct;
    private readonly IoRing? _ring;
    private readonly EventFd? _signal;
    private readonly FileTransfer[] _transfers;
    private readonly bool _writesInPlace;
    private readonly FlushLine _flushes = new();
    private FileTransfer? _free;
    private FileTransfer? _done;
    private FileTransfer? _reaped;
    private FileTransfer? _alone;
    private FileTransfer? _ready;
    private bool _readsNoWait;
    private volatile bool _cancelled;
    private int _atWorkers;
    private readonly UseGate _signalling = new();
    private ulong _inPlace;
    private ulong _byUring;
    private ulong _byWorker;

    /// <param name="backend">The disk.</param>
    /// <param name="file">Its open file.</param>
    /// <param name="own">The same file, opened for this channel alone, which closes it; null to share the disk's.</param>
    /// <param name="direct">The file for direct transfers; null for the page cache.</param>
    /// <param name="depth">The most requests in flight.</param>
    /// <param name="ownsThread">Whether the caller's thread may wait.</param>
    /// <param name="way">For tests: which way the transfers go.</param>
    internal FileChannel(FileBackend backend, FileDescriptor file, FileDescriptor? own, FileDescriptor? direct, int depth, bool ownsThread, FileWay way)
    {
        _backend = backend;
        _own = own;
        _file = own ?? file;
        _direct = direct;
        IsInPlace = backend.IsInMemory && direct is null && way == FileWay.Best;
        _readsNoWait = direct is null && way == FileWay.Best;
        _writesInPlace = direct is null && way == FileWay.Best && ownsThread;
        Depth = IsInPlace ? 1 : depth;
        _transfers = new FileTransfer[Depth];
        for (var i = Depth - 1; i >= 0; i--)
            _free = _transfers[i] = new FileTransfer(this, i) { Next = _free };
        if (IsInPlace)
            return;
        _signal = new EventFd();
        if (way == FileWay.Worker || (_ring = IoRing.TryCreate(depth, out var error)) is null)
            return;
        error = _ring.RegisterSignal(_signal);
        if (error == Errno.None)
            error = direct is null ? _ring.RegisterFiles(_file) : _ring.RegisterFiles(_file, direct);
        if (error == Errno.None && _ring.Supports(IoRingOperation.Read) && _ring.Supports(IoRingOperation.Write))
            return;
        _ring.Dispose();
        _ring = null;
    }

    public int Depth { get; }

    public FileDescriptor? Completion => _signal?.Descriptor;

    public BlockWays Ways => new(Volatile.Read(ref _inPlace), Volatile.Read(ref _byUring), Volatile.Read(ref _byWorker));

    // The file system is memory, and no transfer waits for a device.
    private bool IsInPlace { get; }

    private FileDescriptor Target => _direct ?? _file;

    private int TargetIndex => _direct is null ? BufferedIndex : DirectIndex;

    public bool Submit(BlockRequest request)
    {
        request.Result = Errno.None;
        var cursor = new RunCursor(request.RunList);
        var offset = request.Offset;
        switch (request.Operation)
        {
            case BlockOperation.GetId:
                request.AnswerIdentity(_backend.Info.Serial);
                return DoneInPlace();
            case BlockOperation.Flush when _backend.FailedFlush is var failed and not Errno.None:
                request.Result = failed;
                return DoneInPlace();
            case BlockOperation.Discard or BlockOperation.WriteZeroes when request.Length == 0:
            case BlockOperation.Read or BlockOperation.Write when cursor.IsAtEnd:
                return DoneInPlace();
            case BlockOperation.Read when _readsNoWait && !IsInPlace && _ring is null:
                if (TryReadCached(request, ref cursor, ref offset))
                    return DoneInPlace();
                break;
        }

        if (_free is not { } transfer)
        {
            // More than the depth that was asked for.
            request.Result = Errno.EBUSY;
            return true;
        }

        _free = transfer.Next;
        transfer.Begin(request, cursor, offset, _direct is not null && NeedsBounce(request));
        if (IsInPlace || (_writesInPlace && request.Operation == BlockOperation.Write))
        {
            request.Result = _backend.End(request, transfer.Do(_file));
            Release(transfer);
            return DoneInPlace();
        }

        // One at a time; it is done with those that wait.
        if (request.Operation == BlockOperation.Flush && !_flushes.TryBegin(transfer))
            return false;
        if (_ring is not null)
            return !TryCollect(transfer) && TryWork(transfer);
        return TryWork(transfer);
    }

    public void Commit()
    {
        if (_alone is { } transfer)
        {
            _alone = null;
            if (TryReadAlone(transfer))
                return;
        }

        _ring?.SetSignals(false);
        // Where the kernel has no room at the moment, the waiter is sent round once more.
        if (_ring is not null && _ring.Submit() != Errno.None && _ring.Prepared > 0)
            _signal!.Signal();
    }

    public BlockRequest? TryReap()
    {
        if (_ready is { } ready)
        {
            _ready = null;
            return Release(ready);
        }

        if (_flushes.TakeEnded() is { } flush)
            return Release(flush);
        while (true)
        {
            if (Reap() is { } request)
                return request;
            // From here on the caller may wait for the signal.
            if (_ring is not { InFlight: > 0 })
                return null;
            _ring.SetSignals(true);
            if (!_ring.HasCompletion)
                return null;
        }
    }

    private BlockRequest? Reap()
    {
        while (_ring is not null && _ring.TryReap(out var completion))
        {
            var transfer = _transfers[completion.Token];
            if (GoesOn(transfer, completion))
                continue;
            return Release(transfer);
        }

        // What was cut short is on its way again, and what the kernel had no room for.
        if (_ring?.Prepared > 0)
            Commit();

        _reaped ??= TakeDone();
        if (_reaped is not { } done)
            return null;
        _reaped = done.Next;
        _atWorkers--;
        return Release(done);
    }

    public void Wait(int milliseconds)
    {
        if (_ready is not null || _flushes.HasEnded || _reaped is not null || Volatile.Read(ref _done) is not null)
            return;
        // What a worker has done is told by the eventfd alone, and so is all when there is an end to the wait.
        if (_ring is not null && _atWorkers == 0 && milliseconds < 0)
        {
            if (_ring.InFlight + _ring.Prepared == 0)
                return;
            _ring.SetSignals(false);
            _ring.Submit(waitFor: 1);
            return;
        }

        if (_signal is not null && Polling.Wait(_signal.Descriptor, forWriting: false, cancel: null, milliseconds))
            _signal.TryRead(out _);
    }

    /// <summary>Cancels what is in flight and waits for it: nothing touches the memory of a request afterwards.</summary>
    public void Dispose()
    {
        _cancelled = true;
        _ring?.Dispose();
        while (_atWorkers > 0)
        {
            _reaped ??= TakeDone();
            if (_reaped is { } done)
            {
                _reaped = done.Next;
                _atWorkers--;
            }
            else
            {
                _signal!.Wait(Timeout.InfiniteTimeSpan);
            }
        }

        _signalling.Close();
        _signal?.Dispose();
        foreach (var transfer in _transfers)
            transfer.Free();
        _own?.Dispose();
    }

    /// <summary>Does a transfer on a worker's thread, which may wait.</summary>
    internal void Work(FileTransfer transfer)
    {
        transfer.Request.Result = _cancelled ? Errno.ECANCELED : _backend.End(transfer.Request, transfer.Do(Target));
        // Once it is in the list its owner may close the channel, who therefore waits for the signal below.
        _signalling.TryEnter();
        FileTransfer? head;
        do
        {
            head = Volatile.Read(ref _done);
            transfer.Next = head;
        }
        while (Interlocked.CompareExchange(ref _done, transfer, head) != head);
        _signal!.Signal();
        _signalling.Leave();
    }

    private bool DoneInPlace()
    {
        _inPlace++;
        return true;
    }

    // A read that comes alone is tried in the page cache, by one call. Several go to the kernel together, which looks there first as well: by one call too.
    private bool TryCollect(FileTransfer transfer)
    {
        if (_alone is { } before)
        {
            _alone = null;
            if (!TryPrepare(before))
                throw new InvalidOperationException("A ring had no room for a request that is within its depth.");
            _byUring++;
        }
        else if (_readsNoWait && _ring!.Prepared == 0 && transfer.Request.Operation == BlockOperation.Read)
        {
            _alone = transfer;
            return true;
        }

        if (!TryPrepare(transfer))
            return false;
        _byUring++;
        return true;
    }

    // True when it is done.
    private bool TryReadAlone(FileTransfer transfer)
    {
        var request = transfer.Request;
        var cursor = new RunCursor(request.RunList);
        var offset = request.Offset;
        if (TryReadCached(request, ref cursor, ref offset))
        {
            _inPlace++;
            _ready = transfer;
            return true;
        }

        transfer.Begin(request, cursor, offset, bounce: false);
        if (TryPrepare(transfer))
            _byUring++;
        else if (HandToWorker(transfer))
            _ready = transfer;
        return _ready is not null;
    }

    // True when it is done already.
    private bool TryWork(FileTransfer transfer)
    {
        if (!HandToWorker(transfer))
            return false;
        Release(transfer);
        return true;
    }

    // All, or nothing but a beginning: the rest has to be waited for.
    private bool TryReadCached(BlockRequest request, ref RunCursor cursor, ref long offset)
    {
        while (!cursor.IsAtEnd)
        {
            var current = cursor.IsInside ? cursor.Current : default;
            var runs = cursor.IsInside ? new ReadOnlySpan<IoVector>(in current) : cursor.Rest.AsSpan();
            var moved = _file.ReadVectors(runs, offset, out var error, noWait: true);
            if (moved > 0)
            {
                offset += moved;
                cursor.Advance(moved);
                continue;
            }

            if (error == Errno.EOPNOTSUPP)
                _readsNoWait = false;
            else if (error != Errno.EAGAIN)
                request.Result = moved == 0 ? Errno.EIO : error;
            return request.Result != Errno.None;
        }

        return true;
    }

    private bool NeedsBounce(BlockRequest request)
    {
        // A disk may take addresses in units of 4 and lengths in units of its sectors.
        var addresses = (nuint)(_backend.DirectMemoryAlignment - 1);
        var lengths = (nuint)(_backend.DirectLengthAlignment - 1);
        foreach (var run in request.Runs)
        {
            if (((nuint)run.Address & addresses) != 0 || (run.Length & lengths) != 0)
                return true;
        }

        return false;
    }

    private bool TryPrepare(FileTransfer transfer)
    {
        var request = transfer.Request;
        var token = (ulong)transfer.Place;
        return request.Operation switch
        {
            BlockOperation.Flush => _ring!.Supports(IoRingOperation.Sync) && _ring.TryPrepareSync(TargetIndex, token),
            BlockOperation.Discard or BlockOperation.WriteZeroes =>
                _ring!.Supports(IoRingOperation.Allocate) && _ring.TryPrepareAllocate(TargetIndex, transfer.Allocation, request.Offset, request.Length, token),
            _ => transfer.IsList(out var list, out var run)
                ? _ring!.TryPrepareTransfer(transfer.IsWrite, TargetIndex, list, transfer.Offset, request.IsDurable, token)
                : _ring!.TryPrepareTransfer(transfer.IsWrite, TargetIndex, run, transfer.Offset, request.IsDurable, token),
        };
    }

    // What the kernel says of a transfer; true when it is on its way again.
    private bool GoesOn(FileTransfer transfer, IoRingCompletion completion)
    {
        var request = transfer.Request;
        var moves = request.Operation is BlockOperation.Read or BlockOperation.Write;
        if (completion.Error == Errno.EINTR)
            return TryRestart(transfer);
        if (completion.Error == Errno.EOPNOTSUPP && request.Operation == BlockOperation.WriteZeroes && transfer.TryFallBack())
            return TryRestart(transfer);
        // It would have to wait, and the kernel does not do that for it.
        if (completion.Error == Errno.EAGAIN)
        {
            _byUring--;
            return !HandToWorker(transfer);
        }

        if (completion.Result < 0 || !moves)
        {
            request.Result = _backend.End(request, completion.Error);
            return false;
        }

        if (completion.Result == 0)
        {
            request.Result = Errno.EIO;
            return false;
        }

        transfer.Advance(completion.Result);
        return !transfer.IsAtEnd && TryRestart(transfer);
    }

    private bool TryRestart(FileTransfer transfer) => TryPrepare(transfer) || !HandToWorker(transfer);

    // True when it is done already: the host has no thread for it.
    private bool HandToWorker(FileTransfer transfer)
    {
        _byWorker++;
        if (_backend.Workers.TryAdd(transfer))
        {
            _atWorkers++;
            return false;
        }

        transfer.Request.Result = _backend.End(transfer.Request, transfer.Do(Target));
        return true;
    }

    private BlockRequest Release(FileTransfer transfer)
    {
        if (_flushes.IsUnderWay(transfer))
            EndFlush();
        transfer.Next = _free;
        _free = transfer;
        return transfer.Request;
    }

    // What waited for it is done by one. What is prepared here goes to the kernel before the caller sleeps.
    private void EndFlush()
    {
        var next = _flushes.End(isTaken: true);
        while (next is not null)
        {
            if (_ring is not null && TryPrepare(next))
            {
                _byUring++;
                return;
            }

            if (!HandToWorker(next))
                return;
            next = _flushes.End(isTaken: false);
        }
    }

    // The oldest first.
    private FileTransfer? TakeDone()
    {
        var list = Interlocked.Exchange(ref _done, null);
        FileTransfer? turned = null;
        while (list is not null)
        {
            var next = list.Next;
            list.Next = turned;
            turned = list;
            list = next;
        }

        return turned;
    }
}
