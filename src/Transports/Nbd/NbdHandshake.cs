using System.Buffers.Binary;
using System.Text;
using static Virtbus.Transports.Nbd.NbdProtocol;

namespace Virtbus.Transports.Nbd;

/// <summary>
/// The handshake of a connection (fixed newstyle): options and their answers, until the client has chosen an export or gives up. On the
/// connection's thread, which waits for the client; a deadline of the session ends that.
/// </summary>
internal sealed class NbdHandshake(NbdServer server, NbdSession session, NbdStream stream)
{
    private const int MaxOptionData = 64 << 10;
    private const int MaxQueries = 256;
    private const int ReplySize = 20;
    private const int ReservedZeroes = 124;

    private readonly byte[] _header = new byte[ReplySize];
    private bool _noZeroes;
    private bool _isStructured;
    private NbdExport? _allocationOf;

    /// <summary>Haggles.</summary>
    /// <returns>What was agreed on; null when the connection is over, and the stream says why.</returns>
    internal NbdChoice? Run()
    {
        if (!Greet())
            return null;
        while (TryReadOption(out var option, out var data))
        {
            if (option == NbdOption.EXPORT_NAME)
                return EnterByName(data);
            if (option == NbdOption.ABORT)
            {
                Reply(option, NbdOptionReply.ACK);
                stream.End("it gave the handshake up");
                return null;
            }

            if (Answer(option, data) is { } choice)
                return choice;
        }

        return null;
    }

    private bool Greet()
    {
        Span<byte> greeting = stackalloc byte[18];
        BinaryPrimitives.WriteUInt64BigEndian(greeting, NBDMAGIC);
        BinaryPrimitives.WriteUInt64BigEndian(greeting[8..], IHAVEOPT);
        BinaryPrimitives.WriteUInt16BigEndian(greeting[16..], NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
        if (!stream.Send(greeting) || !stream.ReadExactly(greeting[..4]))
            return false;
        var flags = BinaryPrimitives.ReadUInt32BigEndian(greeting);
        if ((flags & ~(uint)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) != 0)
            return Refuse($"its flags 0x{flags:x} are not known");
        _noZeroes = (flags & NBD_FLAG_NO_ZEROES) != 0;
        return true;
    }

    private bool TryReadOption(out NbdOption option, out ReadOnlySpan<byte> data)
    {
        option = default;
        data = default;
        Span<byte> header = stackalloc byte[OptionSize];
        if (!stream.ReadExactly(header))
            return false;
        if (BinaryPrimitives.ReadUInt64BigEndian(header) != IHAVEOPT)
            return Refuse("it sent what is no option");
        option = (NbdOption)BinaryPrimitives.ReadUInt32BigEndian(header[8..]);
        var length = BinaryPrimitives.ReadUInt32BigEndian(header[12..]);
        if (length > MaxOptionData)
            return Refuse($"its option {(uint)option} has {length} bytes");
        var bytes = length == 0 ? [] : new byte[length];
        data = bytes;
        session.Peer.CountMessage();
        return stream.ReadExactly(bytes);
    }

    private NbdChoice? Answer(NbdOption option, ReadOnlySpan<byte> data)
    {
        switch (option)
        {
            case NbdOption.LIST:
                List(data);
                return null;
            case NbdOption.INFO or NbdOption.GO:
                return Describe(option, data);
            case NbdOption.STRUCTURED_REPLY:
                _isStructured |= data.IsEmpty;
                Reply(option, data.IsEmpty ? NbdOptionReply.ACK : NbdOptionReply.ERR_INVALID);
                return null;
            case NbdOption.LIST_META_CONTEXT or NbdOption.SET_META_CONTEXT:
                AnswerContexts(option, data);
                return null;
            case NbdOption.STARTTLS:
                ReplyError(option, NbdOptionReply.ERR_UNSUP, "this server has no TLS");
                return null;
            default:
                ReplyError(option, NbdOptionReply.ERR_UNSUP, "this server does not know the option");
                return null;
        }
    }

    private NbdChoice? EnterByName(ReadOnlySpan<byte> data)
    {
        // The option has no way to say no but the end of the connection.
        if (!NbdOptionReader.TryDecode(data, out var name) || server.Find(name) is not { } export || !export.TryEnter(session))
        {
            Refuse("there is no export of the name that it asked for");
            return null;
        }

        var choice = Choose(export);
        Span<byte> answer = stackalloc byte[10 + ReservedZeroes];
        answer.Clear();
        BinaryPrimitives.WriteUInt64BigEndian(answer, (ulong)export.Backend.Info.Capacity);
        BinaryPrimitives.WriteUInt16BigEndian(answer[8..], choice.Flags);
        stream.Send(_noZeroes ? answer[..10] : answer);
        return choice;
    }

    private NbdChoice Choose(NbdExport export) => new(export, export.FlagsFor(_isStructured), _isStructured, _isStructured && _allocationOf == export);

    private void List(ReadOnlySpan<byte> data)
    {
        if (!data.IsEmpty)
        {
            ReplyError(NbdOption.LIST, NbdOptionReply.ERR_INVALID, "a list takes no data");
            return;
        }

        foreach (var export in server.Exports)
        {
            var name = Encoding.UTF8.GetBytes(export.Name);
            var length = new byte[sizeof(uint)];
            BinaryPrimitives.WriteUInt32BigEndian(length, (uint)name.Length);
            Reply(NbdOption.LIST, NbdOptionReply.SERVER, [.. length, .. name, .. Encoding.UTF8.GetBytes(export.Description)]);
        }

        Reply(NbdOption.LIST, NbdOptionReply.ACK);
    }

    // NBD_OPT_INFO and NBD_OPT_GO.
    private NbdChoice? Describe(NbdOption option, ReadOnlySpan<byte> data)
    {
        var reader = new NbdOptionReader(data);
        var isRight = reader.TryRead(out string name) & reader.TryRead(out ushort count);
        ushort wanted = 0;
        for (var i = 0; isRight && i < count; i++)
        {
            isRight = reader.TryRead(out ushort info);
            wanted |= (ushort)(info < 16 ? 1 << info : 0);
        }

        if (!isRight || !reader.IsAtEnd)
        {
            ReplyError(option, NbdOptionReply.ERR_INVALID, "the data of the option are none");
            return null;
        }

        if (server.Find(name) is not { } export)
        {
            ReplyError(option, NbdOptionReply.ERR_UNKNOWN, "there is no export of that name");
            return null;
        }

        if (option == NbdOption.GO && !export.TryEnter(session))
        {
            ReplyError(option, NbdOptionReply.ERR_SHUTDOWN, "the export is being closed");
            return null;
        }

        var choice = Choose(export);
        SendInfo(option, export, choice.Flags, wanted);
        Reply(option, NbdOptionReply.ACK);
        return option == NbdOption.GO ? choice : null;
    }

    private void SendInfo(NbdOption option, NbdExport export, ushort flags, ushort wanted)
    {
        var info = export.Backend.Info;
        Span<byte> bytes = stackalloc byte[14];
        BinaryPrimitives.WriteUInt16BigEndian(bytes, NBD_INFO_EXPORT);
        BinaryPrimitives.WriteUInt64BigEndian(bytes[2..], (ulong)info.Capacity);
        BinaryPrimitives.WriteUInt16BigEndian(bytes[10..], flags);
        Reply(option, NbdOptionReply.INFO, bytes[..12]);
        // Not asked for it is sent as well: a client that knows it keeps to it, and another one passes over it.
        BinaryPrimitives.WriteUInt16BigEndian(bytes, NBD_INFO_BLOCK_SIZE);
        BinaryPrimitives.WriteUInt32BigEndian(bytes[2..], (uint)info.BlockSize);
        BinaryPrimitives.WriteUInt32BigEndian(bytes[6..], PreferredSize(info));
        BinaryPrimitives.WriteUInt32BigEndian(bytes[10..], MaxPayload);
        Reply(option, NbdOptionReply.INFO, bytes);
        SendText(NBD_INFO_NAME, export.Name);
        SendText(NBD_INFO_DESCRIPTION, export.Description);

        void SendText(ushort type, string text)
        {
            if ((wanted & (1 << type)) != 0)
                Reply(option, NbdOptionReply.INFO, [0, (byte)type, .. Encoding.UTF8.GetBytes(text)]);
        }
    }

    private static uint PreferredSize(Block.BlockInfo info)
    {
        var size = Math.Max(info.BlockSize << info.PhysicalBlockExponent, Math.Max(info.MinimumIoSize, 4096));
        return (uint)Math.Min(int.IsPow2(size) ? size : Math.Max(info.BlockSize, 4096), MaxPayload);
    }

    private void AnswerContexts(NbdOption option, ReadOnlySpan<byte> data)
    {
        var isSet = option == NbdOption.SET_META_CONTEXT;
        // What was set before is gone, also when this fails.
        if (isSet)
            _allocationOf = null;
        if (!_isStructured)
        {
            ReplyError(option, NbdOptionReply.ERR_INVALID, "structured replies come first");
            return;
        }

        var reader = new NbdOptionReader(data);
        if (!reader.TryRead(out string name) || !reader.TryRead(out uint count))
        {
            ReplyError(option, NbdOptionReply.ERR_INVALID, "the data of the option are none");
            return;
        }

        if (count > MaxQueries)
        {
            ReplyError(option, NbdOptionReply.ERR_TOO_BIG, "there are too many queries");
            return;
        }

        var isMeant = count == 0 && !isSet;
        for (var i = 0; i < count; i++)
        {
            if (!reader.TryRead(out string query))
            {
                ReplyError(option, NbdOptionReply.ERR_INVALID, "the data of the option are none");
                return;
            }

            isMeant |= query == BaseAllocation || (query == "base:" && !isSet);
        }

        if (!reader.IsAtEnd)
        {
            ReplyError(option, NbdOptionReply.ERR_INVALID, "the data of the option are none");
            return;
        }

        if (server.Find(name) is not { } export)
        {
            ReplyError(option, NbdOptionReply.ERR_UNKNOWN, "there is no export of that name");
            return;
        }

        if (isMeant)
        {
            if (isSet)
                _allocationOf = export;
            var context = new byte[sizeof(uint)];
            BinaryPrimitives.WriteUInt32BigEndian(context, isSet ? BaseAllocationId : 0);
            Reply(option, NbdOptionReply.META_CONTEXT, [.. context, .. Encoding.ASCII.GetBytes(BaseAllocation)]);
        }

        Reply(option, NbdOptionReply.ACK);
    }

    private void ReplyError(NbdOption option, NbdOptionReply reply, string message)
    {
        if (reply != NbdOptionReply.ERR_UNSUP)
            session.CountBadMessage();
        Reply(option, reply, Encoding.ASCII.GetBytes(message));
    }

    private void Reply(NbdOption option, NbdOptionReply reply, ReadOnlySpan<byte> data = default)
    {
        BinaryPrimitives.WriteUInt64BigEndian(_header, NBD_REP_MAGIC);
        BinaryPrimitives.WriteUInt32BigEndian(_header.AsSpan(8), (uint)option);
        BinaryPrimitives.WriteUInt32BigEndian(_header.AsSpan(12), (uint)reply);
        BinaryPrimitives.WriteUInt32BigEndian(_header.AsSpan(16), (uint)data.Length);
        if (stream.Send(_header))
            stream.Send(data);
    }

    private bool Refuse(string reason)
    {
        session.CountBadMessage();
        stream.End(reason);
        return false;
    }
}
