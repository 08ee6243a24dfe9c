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
    private const int MostExtents = 512;
    private const int ExtentSize = 8;
    private const int MostWait = 1000;
    // What a disk does at once of long requests before the client and the other requests are looked at.
    private const int MostPieces = 64;
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
    private readonly NbdPieces _pieces;
    // Long requests that go on in the next rounds, by turns.
    private readonly NbdRequest[] _paused = new NbdRequest[Depth];
    private int _firstPaused;
    private int _pausedCount;
    private int _piecesLeft;
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
    private bool _hasLeft;
    private bool _isRefused;

    /// <exception cref="VirtbusException">The disk has no channel left.</exception>
    internal NbdTransmission(NbdSession session, NbdStream stream, NbdChoice choice)
    {
        _session = session;
        _stream = stream;
        _choice = choice;
        _backend = choice.Export.Backend;
        _pieces = new NbdPieces(choice.Export, Depth);
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

    private bool IsIdle => _atDisk == 0 && _pausedCount == 0 && !_replies.Any;

    // Received, and not taken for want of a place or of memory.
    private bool HoldsHeader => _filling is null && _discards == 0 && _end - _start >= RequestSize;

    private bool MayReceive => !_hasLeft && !_stream.IsAtEnd && !_isStalled && (_freeCount > 0 || _filling is not null || _discards > 0) && !HoldsHeader;

    /// <summary>Serves the client until it goes.</summary>
    internal void Run()
    {
        while (_stream.Ended is null && !_session.IsClosed)
        {
            _piecesLeft = MostPieces;
            var moved = MayReceive && Receive(wait: IsIdle);
            moved |= Parse();
            moved |= Resume();
            _channel.Commit();
            moved |= Reap();
            moved |= Send();
            if (!IsIdle)
            {
                if (!moved)
                    Wait();
            }
            else if (_hasLeft)
            {
                _stream.End("it disconnected");
            }
            else if (_stream.IsAtEnd && !HoldsHeader)
            {
                _stream.End("it closed the connection");
            }
            else
            {
                _buffers.Rest();
            }
        }

        Drain();
    }

    // Who goes may do so without waiting for its replies: what it sent before is done, as far as it is here.
    private void Drain()
    {
        while (!_session.IsClosed && !_isRefused)
        {
            _piecesLeft = MostPieces;
            Free(_replies.Drop(_sent));
            var moved = MayReceive && Receive(wait: false);
            moved |= Parse();
            // A disconnect that is here is seen before it is said of what is long whether anybody wants it.
            moved = moved || Resume();
            _channel.Commit();
            moved |= Reap();
            if (moved || _replies.Any)
                continue;
            if (_atDisk == 0)
                return;
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
        _pieces.Dispose();
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
        while (_filling is null && _discards == 0 && !_hasLeft && !_isRefused && _freeCount > 0 && _end - _start >= RequestSize)
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
        _hasLeft = command == NbdCommand.DISC;
        if (_hasLeft)
            return true;
        var request = _free[_freeCount - 1];
        request.Begin(
            command,
            BinaryPrimitives.ReadUInt16BigEndian(header[4..]),
            BinaryPrimitives.ReadUInt64BigEndian(header[8..]),
            BinaryPrimitives.ReadUInt64BigEndian(header[16..]),
            length);
        request.Error = NbdRules.Check(_choice, _backend.Info, request, out var isSound);
        // Nobody takes what is read.
        if (_stream.Ended is not null && command is NbdCommand.READ or NbdCommand.BLOCK_STATUS)
            request.Error = NbdError.ESHUTDOWN;
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

        Advance(request);
    }

    private bool Refuse(string reason)
    {
        _session.CountBadMessage();
        _isRefused = true;
        _stream.End(reason);
        return true;
    }

    private static int BufferSizeOf(NbdRequest request) => request.Command switch
    {
        NbdCommand.READ or NbdCommand.WRITE => (int)request.Length,
        NbdCommand.BLOCK_STATUS => MostExtents * ExtentSize,
        _ => 0,
    };

    // Gives the disk what comes next of a request, as long as it is done at once and others have not waited for too long.
    private void Advance(NbdRequest request)
    {
        while (MayGoOn(request))
        {
            if (IsInside(request) && --_piecesLeft < 0)
            {
                _paused[(_firstPaused + _pausedCount) % Depth] = request;
                _pausedCount++;
                return;
            }

            if (!_pieces.TryPrepare(request))
                break;
            _atDisk++;
            if (!_channel.Submit(request.Block))
                return;
            _atDisk--;
            if (!NbdPieces.GoesOn(request))
                break;
        }

        Finish(request);
    }

    // What takes long is not gone on with for who has left without a word, nor when the disk is to be left.
    private bool MayGoOn(NbdRequest request)
    {
        if (!IsInside(request))
            return true;
        var isUnwanted = !_hasLeft && (_stream.Ended is not null || (_stream.IsAtEnd && request.Buffer is null));
        if (!isUnwanted && !_session.IsClosed)
            return true;
        request.Error = NbdError.ESHUTDOWN;
        return false;
    }

    private static bool IsInside(NbdRequest request) => request.Done > 0 && request.Done < request.Length;

    // Whether there was anything to go on with.
    private bool Resume()
    {
        if (_pausedCount == 0)
            return false;
        if (!_hasLeft && _stream.Ended is null && Polling.HasHungUp(_stream.Descriptor))
        {
            _stream.End("it closed the connection");
            return true;
        }

        while (_pausedCount > 0 && _piecesLeft > 0)
        {
            var request = _paused[_firstPaused];
            _firstPaused = (_firstPaused + 1) % Depth;
            _pausedCount--;
            Advance(request);
        }

        return true;
    }

    private bool Reap()
    {
        var any = false;
        while (_atDisk > 0 && _channel.TryReap() is { } block)
        {
            any = true;
            _atDisk--;
            var request = (NbdRequest)block.Owner!;
            if (NbdPieces.GoesOn(request))
                Advance(request);
            else
                Finish(request);
        }

        return any;
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
        Free(count);
        return count > 0;
    }

    private void Free(int count)
    {
        foreach (var request in _sent.AsSpan(0, count))
        {
            ReturnBuffer(request);
            _free[_freeCount++] = request;
        }
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
}
