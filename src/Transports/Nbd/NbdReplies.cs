using System.Buffers.Binary;
using Virtbus.Platform;
using static Virtbus.Transports.Nbd.NbdProtocol;

namespace Virtbus.Transports.Nbd;

/// <summary>
/// The replies of a connection that wait to be sent, in the order in which their requests ended; several go by one call. One thread.
/// </summary>
internal sealed class NbdReplies : IDisposable
{
    private const int HeaderRoom = 32;
    private const int MostAtOnce = 32;
    private readonly bool _isStructured;
    private readonly AlignedBuffer _headers;
    private readonly NbdRequest[] _waiting;
    private readonly IoVector[] _runs = new IoVector[MostAtOnce * 2];
    private int _first;
    private int _count;
    // Bytes of the first one that are sent already.
    private long _sent;

    internal NbdReplies(int depth, bool isStructured)
    {
        _isStructured = isStructured;
        _headers = new AlignedBuffer(depth * HeaderRoom, HeaderRoom);
        _waiting = new NbdRequest[depth];
    }

    /// <summary>Whether any waits.</summary>
    internal bool Any => _count > 0;

    public void Dispose() => _headers.Dispose();

    /// <summary>A request has ended; what is known of it by now is its reply.</summary>
    internal void Add(NbdRequest request)
    {
        WriteHeader(request, HeaderOf(request, HeaderRoom).AsSpan());
        _waiting[(_first + _count) % _waiting.Length] = request;
        _count++;
    }

    /// <summary>Sends what there is room for.</summary>
    /// <param name="stream">The connection.</param>
    /// <param name="done">Gets those whose reply has gone; as many as a depth.</param>
    /// <returns>How many those are.</returns>
    internal int Send(NbdStream stream, Span<NbdRequest> done)
    {
        var ended = 0;
        while (_count > 0)
        {
            var (runs, length) = Gather();
            var sent = stream.SendRuns(_runs.AsSpan(0, runs));
            if (sent == 0)
                break;
            _sent += sent;
            while (_count > 0 && _sent >= SizeOf(_waiting[_first]))
            {
                _sent -= SizeOf(_waiting[_first]);
                done[ended++] = _waiting[_first];
                _first = (_first + 1) % _waiting.Length;
                _count--;
            }

            // The socket is full.
            if (sent < length)
                break;
        }

        return ended;
    }

    /// <summary>Gives up what waits: nobody takes it.</summary>
    /// <param name="done">Gets those that waited; as many as a depth.</param>
    /// <returns>How many those are.</returns>
    internal int Drop(Span<NbdRequest> done)
    {
        var dropped = _count;
        for (var i = 0; i < dropped; i++)
            done[i] = _waiting[(_first + i) % _waiting.Length];
        (_count, _sent) = (0, 0);
        return dropped;
    }

    private static long SizeOf(NbdRequest request) => request.HeaderLength + (long)request.ReplyLength;

    private IoVector HeaderOf(NbdRequest request, int length) => new(_headers.Take(1).Address + (request.Place * HeaderRoom), (nuint)length);

    private (int Runs, long Length) Gather()
    {
        var (runs, length) = (0, 0L);
        var skip = _sent;
        for (var i = 0; i < Math.Min(_count, MostAtOnce); i++)
        {
            var request = _waiting[(_first + i) % _waiting.Length];
            Take(HeaderOf(request, request.HeaderLength));
            if (request.ReplyLength > 0)
                Take(request.Buffer!.Take(request.ReplyLength));
        }

        return (runs, length);

        void Take(IoVector run)
        {
            var left = (long)run.Length - skip;
            if (left <= 0)
            {
                skip -= (long)run.Length;
                return;
            }

            _runs[runs++] = new IoVector(run.Address + (nint)skip, (nuint)left);
            length += left;
            skip = 0;
        }
    }

    private void WriteHeader(NbdRequest request, Span<byte> header)
    {
        var isRead = request.Command == NbdCommand.READ;
        if (!_isStructured || (request.Error == NbdError.None && !isRead && request.Command != NbdCommand.BLOCK_STATUS))
        {
            BinaryPrimitives.WriteUInt32BigEndian(header, NBD_SIMPLE_REPLY_MAGIC);
            BinaryPrimitives.WriteUInt32BigEndian(header[4..], (uint)request.Error);
            BinaryPrimitives.WriteUInt64BigEndian(header[8..], request.Cookie);
            request.HeaderLength = SimpleReplySize;
            return;
        }

        if (request.Error != NbdError.None)
        {
            WriteChunk(request, header, NBD_REPLY_TYPE_ERROR, 6);
            BinaryPrimitives.WriteUInt32BigEndian(header[ChunkSize..], (uint)request.Error);
            BinaryPrimitives.WriteUInt16BigEndian(header[(ChunkSize + 4)..], 0);
        }
        else if (request.ReplyLength == 0)
        {
            WriteChunk(request, header, NBD_REPLY_TYPE_NONE, 0);
        }
        else if (isRead)
        {
            WriteChunk(request, header, NBD_REPLY_TYPE_OFFSET_DATA, 8);
            BinaryPrimitives.WriteUInt64BigEndian(header[ChunkSize..], (ulong)request.Offset);
        }
        else
        {
            WriteChunk(request, header, NBD_REPLY_TYPE_BLOCK_STATUS, 4);
            BinaryPrimitives.WriteUInt32BigEndian(header[ChunkSize..], BaseAllocationId);
        }
    }

    // The one and last chunk of a reply; its fixed part goes with the header.
    private static void WriteChunk(NbdRequest request, Span<byte> header, ushort type, int fixedLength)
    {
        BinaryPrimitives.WriteUInt32BigEndian(header, NBD_STRUCTURED_REPLY_MAGIC);
        BinaryPrimitives.WriteUInt16BigEndian(header[4..], NBD_REPLY_FLAG_DONE);
        BinaryPrimitives.WriteUInt16BigEndian(header[6..], type);
        BinaryPrimitives.WriteUInt64BigEndian(header[8..], request.Cookie);
        BinaryPrimitives.WriteUInt32BigEndian(header[16..], (uint)(fixedLength + request.ReplyLength));
        request.HeaderLength = ChunkSize + fixedLength;
    }
}
