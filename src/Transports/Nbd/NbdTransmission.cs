using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Platform;
using static Virtbus.Transports.Nbd.NbdProtocol;

namespace Virtbus.Transports.Nbd;

/// <summary>
/// The requests of a connection and their replies, after the handshake. On the connection's thread, which waits for the client and for the disk;
/// requests overlap and are answered as they end. A request takes no lock and no memory.
/// </summary>
internal sealed class NbdTransmission : IDisposable
{
    /// <summary>The most requests in work at once, those included whose reply waits to be sent; the others wait in the socket.</summary>
    internal const int Depth = 64;

    private const int ReceiveSize = 64 << 10;
    private const int ZeroesSize = 256 << 10;
    private const int MostExtents = 512;
    private const int ExtentSize = 8;
    private const int MostWait = 1000;
    // After a write of more than that a header comes alone, so that its payload goes where it belongs at once.
    private const int LongWrite = 16 << 10;

    private readonly NbdSession _session;
    private readonly NbdStream _stream;
    private readonly NbdChoice _choice;
    private readonly IBlockBackend _backend;
    private readonly IBlockChannel _channel;
    private readonly NbdBuffers _buffers = new(Depth);
    private readonly NbdReplies _replies;
    private readonly AlignedBuffer _received = new(ReceiveSize, Environment.SystemPageSize);
    private readonly NbdRequest[] _places = new NbdRequest[Depth];
    private readonly NbdRequest[] _free = new NbdRequest[Depth];
    private readonly NbdRequest[] _sent = new NbdRequest[Depth];
    private readonly IoVector[] _runs = GC.AllocateArray<IoVector>(Depth, pinned: true);
    private AlignedBuffer? _zeroes;
    private int _freeCount = Depth;
    private int _atDisk;
    // Of what was received the part that is not looked at yet.
    private int _start;
    private int _end;
    // The write whose payload is coming, and how much of it is here.
    private NbdRequest? _filling;
    private int _filled;
    // Payload that is thrown away, since its write was refused.
    private uint _discards;
    private bool _wantsHeader;
    private bool _isStalled;
    private bool _isLeaving;

    /// <exception cref="VirtbusException">The disk has no channel left.</exception>
    internal NbdTransmission(NbdSession session, NbdStream stream, NbdChoice choice)
    {
        _session = session;
        _stream = stream;
        _choice = choice;
        _backend = choice.Export.Backend;
        for (var i = 0; i < Depth; i++)
            _free[i] = _places[i] = new NbdRequest(i);
        _replies = new NbdReplies(Depth, choice.IsStructured);
        try
        {
            _channel = _backend.OpenChannel(Depth);
        }
        catch
        {
            _replies.Dispose();
            _received.Dispose();
            throw;
        }
    }

    private Span<byte> Received => _received.Take(ReceiveSize).AsSpan();

    private bool IsIdle => _atDisk == 0 && !_replies.Any;

    private bool MayReceive => !_isLeaving && !_isStalled && (_filling is not null || _discards > 0 || _freeCount > 0);

    /// <summary>Serves the client until it goes.</summary>
    internal void Run()
    {
        while (_stream.Ended is null)
        {
            var moved = MayReceive && Receive(wait: IsIdle);
            moved |= Parse();
            _channel.Commit();
            moved |= Reap();
            moved |= Send();
            if (!IsIdle)
            {
                if (!moved)
                    Wait();
            }
            else if (_isLeaving)
            {
                _stream.End("it disconnected");
            }
            else
            {
                _buffers.Rest();
            }
        }

        // Who disconnects may go without waiting for its replies: what it sent before is done.
        while (_isLeaving && _atDisk > 0 && !_session.IsClosed)
        {
            _channel.Commit();
            if (!Reap())
                _channel.Wait(MostWait);
        }
    }

    /// <summary>Ends what is in work: nothing touches the disk or the memory afterwards.</summary>
    public void Dispose()
    {
        _channel.Dispose();
        foreach (var request in _places)
            ReturnBuffer(request);
        _buffers.Dispose();
        _replies.Dispose();
        _received.Dispose();
        _zeroes?.Dispose();
    }

    // Whether anything came.
    private bool Receive(bool wait)
    {
        if (_filling is { } write)
        {
            var payload = write.Buffer!.Take((int)write.Length).AsSpan();
            var count = _stream.Receive(payload[_filled..], wait);
            _filled += count;
            if (_filled == payload.Length)
            {
                _filling = null;
                Advance(write);
            }

            return count > 0;
        }

        // What is left is less than a header.
        Received[_start.._end].CopyTo(Received);
        (_start, _end) = (0, _end - _start);
        var most = _wantsHeader && _discards == 0 && _end < RequestSize ? RequestSize : ReceiveSize;
        var came = _stream.Receive(Received[_end..most], wait);
        _end += came;
        Discard();
        return came > 0;
    }

    private void Discard()
    {
        var count = (int)Math.Min(_discards, (uint)(_end - _start));
        _discards -= (uint)count;
        _start += count;
    }

    // Whether a request was taken.
    private bool Parse()
    {
        var any = false;
        _isStalled = false;
        while (_filling is null && _discards == 0 && !_isLeaving && _stream.Ended is null && _freeCount > 0 && _end - _start >= RequestSize)
        {
            if (!TryTake(Received.Slice(_start, RequestSize)))
            {
                _isStalled = true;
                break;
            }

            any = true;
        }

        return any;
    }

    // False when there is no memory for it before others have ended; it is taken later then.
    private bool TryTake(ReadOnlySpan<byte> header)
    {
        var command = (NbdCommand)BinaryPrimitives.ReadUInt16BigEndian(header[6..]);
        var length = BinaryPrimitives.ReadUInt32BigEndian(header[24..]);
        if (BinaryPrimitives.ReadUInt32BigEndian(header) != NBD_REQUEST_MAGIC)
            return Refuse("it sent what is no request");
        if (command == NbdCommand.WRITE && length > MaxPayload)
            return Refuse("it sent a write that is too long");
        _isLeaving = command == NbdCommand.DISC;
        if (_isLeaving)
            return true;
        var request = _free[_freeCount - 1];
        request.Begin(
            command,
            BinaryPrimitives.ReadUInt16BigEndian(header[4..]),
            BinaryPrimitives.ReadUInt64BigEndian(header[8..]),
            BinaryPrimitives.ReadUInt64BigEndian(header[16..]),
            length);
        request.Error = NbdRules.Check(_choice, _backend.Info, request, out var isSound);
        if (request.Error == NbdError.None && BufferSizeOf(request) is var size and > 0 && (request.Buffer = _buffers.TryTake(size)) is null)
        {
            if (!IsIdle)
                return false;
            request.Error = NbdError.ENOMEM;
        }

        _freeCount--;
        _start += RequestSize;
        _session.Peer.CountMessage();
        if (request.Error != NbdError.None && !isSound)
            _session.CountBadMessage();
        if (command == NbdCommand.WRITE)
            TakePayload(request);
        else
            Begin(request);
        return true;
    }

    private void TakePayload(NbdRequest write)
    {
        _wantsHeader = write.Length > LongWrite;
        if (write.Error != NbdError.None)
        {
            _discards = write.Length;
            Discard();
            Finish(write);
            return;
        }

        var here = (int)Math.Min(write.Length, (uint)(_end - _start));
        if (here > 0)
            Received.Slice(_start, here).CopyTo(write.Buffer!.Take(here).AsSpan());
        _start += here;
        if (here == write.Length)
        {
            Advance(write);
            return;
        }

        _filling = write;
        _filled = here;
    }

    private void Begin(NbdRequest request)
    {
        if (request.Error != NbdError.None)
        {
            Finish(request);
            return;
        }

        if (request.Command == NbdCommand.BLOCK_STATUS)
        {
            FindExtents(request);
            Finish(request);
            return;
        }

        request.WritesZeroes = request.Command == NbdCommand.WRITE_ZEROES && _backend.Info.MaxWriteZeroes == 0;
        Advance(request);
    }

    private bool Refuse(string reason)
    {
        _session.CountBadMessage();
        _stream.End(reason);
        return true;
    }

    private static int BufferSizeOf(NbdRequest request) => request.Command switch
    {
        NbdCommand.READ or NbdCommand.WRITE => (int)request.Length,
        NbdCommand.BLOCK_STATUS => MostExtents * ExtentSize,
        _ => 0,
    };

    // Gives the disk what comes next of a request, as long as it is done at once.
    private void Advance(NbdRequest request)
    {
        while (TryPrepare(request))
        {
            _atDisk++;
            if (!_channel.Submit(request.Block))
                return;
            _atDisk--;
            if (!GoesOn(request))
                break;
        }

        Finish(request);
    }

    private bool Reap()
    {
        var any = false;
        while (_atDisk > 0 && _channel.TryReap() is { } block)
        {
            any = true;
            _atDisk--;
            var request = (NbdRequest)block.Owner!;
            if (GoesOn(request))
                Advance(request);
            else
                Finish(request);
        }

        return any;
    }

    // The next piece; false when there is none.
    private bool TryPrepare(NbdRequest request)
    {
        var info = _backend.Info;
        var block = request.Block;
        var left = request.Length - request.Done;
        if (left == 0 || request.Command == NbdCommand.FLUSH)
            return TryPrepareFlush(request);
        block.Offset = request.Offset + request.Done;
        block.IsDurable = request.Has(NBD_CMD_FLAG_FUA);
        block.MayUnmap = !request.Has(NBD_CMD_FLAG_NO_HOLE);
        block.ClearRuns();
        switch (request.Command)
        {
            case NbdCommand.TRIM:
                block.Operation = BlockOperation.Discard;
                block.Length = Math.Min(left, info.MaxDiscard & -info.BlockSize);
                return block.Length > 0;
            case NbdCommand.WRITE_ZEROES when !request.WritesZeroes:
                block.Operation = BlockOperation.WriteZeroes;
                block.Length = Math.Min(left, info.MaxWriteZeroes & -info.BlockSize);
                return block.Length > 0;
            case NbdCommand.WRITE_ZEROES:
                block.Operation = BlockOperation.Write;
                _zeroes ??= MakeZeroes();
                SetRun(request, _zeroes.Take((int)Cut(Math.Min(left, ZeroesSize), info)));
                return true;
            default:
                block.Operation = request.Command == NbdCommand.READ ? BlockOperation.Read : BlockOperation.Write;
                var whole = request.Buffer!.Take((int)request.Length);
                SetRun(request, new IoVector(whole.Address + (nint)request.Done, (nuint)Cut(left, info)));
                return true;
        }
    }

    private static long Cut(long length, BlockInfo info) => info.MaxTransfer == 0 ? length : Math.Min(length, info.MaxTransfer & -info.BlockSize);

    private void SetRun(NbdRequest request, IoVector run)
    {
        var place = _runs.AsSpan(request.Place, 1);
        place[0] = run;
        request.Block.SetRuns(place);
        request.Block.Length = (long)run.Length;
    }

    // A flush, or what makes zeros and discards durable, where a write says that of itself.
    private static bool TryPrepareFlush(NbdRequest request)
    {
        var isWanted = request.Command == NbdCommand.FLUSH ||
            (request.Has(NBD_CMD_FLAG_FUA) && request.Command is NbdCommand.TRIM or NbdCommand.WRITE_ZEROES && request.Done > 0);
        if (!isWanted || request.IsFlushing)
            return false;
        request.IsFlushing = true;
        request.Block.Operation = BlockOperation.Flush;
        request.Block.Offset = 0;
        request.Block.Length = 0;
        request.Block.ClearRuns();
        return true;
    }

    // What a piece ended with; false when the request ends with it.
    private static bool GoesOn(NbdRequest request)
    {
        var block = request.Block;
        if (block.Result == Errno.None)
        {
            request.Done += block.Length;
            return !request.IsFlushing;
        }

        if (block.Result == Errno.EOPNOTSUPP && block.Operation == BlockOperation.Discard)
        {
            // A hint, which nobody has to follow.
            return false;
        }

        if (block.Result == Errno.EOPNOTSUPP && block.Operation == BlockOperation.WriteZeroes && !request.Has(NBD_CMD_FLAG_FAST_ZERO))
        {
            request.WritesZeroes = true;
            return true;
        }

        request.Error = block.Result == Errno.EOPNOTSUPP && block.Operation == BlockOperation.WriteZeroes ? NbdError.ENOTSUP : NbdErrors.Of(block.Result);
        return false;
    }

    private void FindExtents(NbdRequest request)
    {
        var extents = request.Buffer!.Take(MostExtents * ExtentSize).AsSpan();
        var most = request.Has(NBD_CMD_FLAG_REQ_ONE) ? 1 : MostExtents;
        var count = 0;
        for (long at = request.Offset, end = at + request.Length; at < end && count < most; count++)
        {
            var extent = _backend.FindExtent(at, end - at);
            BinaryPrimitives.WriteUInt32BigEndian(extents[(count * ExtentSize)..], (uint)extent.Length);
            BinaryPrimitives.WriteUInt32BigEndian(extents[((count * ExtentSize) + 4)..], extent.IsHole ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0);
            at += extent.Length;
        }

        request.ReplyLength = count * ExtentSize;
    }

    private void Finish(NbdRequest request)
    {
        if (request.Error == NbdError.None && request.Command == NbdCommand.READ)
            request.ReplyLength = (int)request.Length;
        if (request.Error != NbdError.None)
            request.ReplyLength = 0;
        if (request.ReplyLength == 0)
            ReturnBuffer(request);
        _replies.Add(request);
    }

    private bool Send()
    {
        if (!_replies.Any)
            return false;
        var count = _replies.Send(_stream, _sent);
        foreach (var request in _sent.AsSpan(0, count))
        {
            ReturnBuffer(request);
            _free[_freeCount++] = request;
        }

        return count > 0;
    }

    private void ReturnBuffer(NbdRequest request)
    {
        if (request.Buffer is { } buffer)
            _buffers.Return(buffer);
        request.Buffer = null;
    }

    private void Wait()
    {
        var completion = _atDisk > 0 ? _channel.Completion : null;
        if (!Polling.WaitAny(_stream.Descriptor, MayReceive, _replies.Any, completion))
            _stream.End("it closed the connection");
    }

    private static AlignedBuffer MakeZeroes()
    {
        var zeroes = new AlignedBuffer(ZeroesSize, Environment.SystemPageSize);
        zeroes.Take(ZeroesSize).AsSpan().Clear();
        return zeroes;
    }
}
