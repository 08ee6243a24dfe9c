using System.Buffers.Binary;
using System.Text;
using Virtbus.Platform;
using Virtbus.Transports.Nbd;

namespace Virtbus.Tests.Transports.Nbd;

/// <summary>An NBD client that sends what it is told to, wrong messages too.</summary>
internal sealed class NbdClient : IDisposable
{
    private readonly UnixStream _stream;

    private NbdClient(UnixStream stream) => _stream = stream;

    internal UnixStream Stream => _stream;

    public void Dispose() => _stream.Dispose();

    internal static NbdClient Connect(NbdServer server)
    {
        UnixStream? stream = null;
        // EAGAIN: as many wait already as the server lets wait.
        Deadline.Until(() => (stream = server.Address.Socket is { } socket ? UnixStream.TryConnect(socket, out _) : TcpListener.TryConnect(server.Address.EndPoint!, out _)) is not null, "a connection");
        return new NbdClient(stream!);
    }

    /// <summary>Connects and goes into the transmission phase.</summary>
    internal static NbdClient Open(NbdServer server, bool structured = true, bool allocation = true, string name = "")
    {
        var client = Connect(server);
        client.Greet();
        if (structured)
            Assert.Equal((uint)NbdOptionReply.ACK, client.Ask(NbdOption.STRUCTURED_REPLY).Reply);
        if (structured && allocation)
        {
            Assert.Equal((uint)NbdOptionReply.META_CONTEXT, client.Ask(NbdOption.SET_META_CONTEXT, Contexts(name, "base:allocation")).Reply);
            Assert.Equal((uint)NbdOptionReply.ACK, client.ReadReply().Reply);
        }

        client.Go(name);
        return client;
    }

    /// <summary>Takes the greeting and answers it.</summary>
    internal void Greet(uint flags = 3)
    {
        var greeting = Read(18)!;
        Assert.Equal("NBDMAGICIHAVEOPT", Encoding.ASCII.GetString(greeting, 0, 16));
        Assert.Equal(3, greeting[17]);
        Send(Big(flags));
    }

    internal static byte[] Big(uint value)
    {
        var bytes = new byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(bytes, value);
        return bytes;
    }

    internal static byte[] Big(ulong value)
    {
        var bytes = new byte[8];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, value);
        return bytes;
    }

    internal static byte[] Option(uint option, byte[] data, uint? length = null) =>
        [.. "IHAVEOPT"u8, .. Big(option), .. Big(length ?? (uint)data.Length), .. data];

    internal static byte[] Contexts(string name, params string[] queries) =>
        [.. Text(name), .. Big((uint)queries.Length), .. queries.SelectMany(Text)];

    internal static byte[] Choice(string name, params ushort[] infos) =>
        [.. Text(name), 0, (byte)infos.Length, .. infos.SelectMany(i => new[] { (byte)(i >> 8), (byte)i })];

    internal static byte[] Request(NbdCommand command, ulong offset, uint length, ushort flags = 0, ulong cookie = 0, byte[]? payload = null) =>
        [.. Big(0x25609513u), (byte)(flags >> 8), (byte)flags, (byte)((int)command >> 8), (byte)command, .. Big(cookie), .. Big(offset), .. Big(length), .. payload ?? []];

    /// <summary>Asks for an option and takes the first answer.</summary>
    internal NbdOptionAnswer Ask(NbdOption option, byte[]? data = null)
    {
        Send(Option((uint)option, data ?? []));
        return ReadReply((uint)option);
    }

    internal NbdOptionAnswer ReadReply(uint? option = null)
    {
        var header = Read(20) ?? throw new EndOfStreamException("the server closed the connection");
        Assert.Equal(0x3e889045565a9UL, BinaryPrimitives.ReadUInt64BigEndian(header));
        if (option is { } asked)
            Assert.Equal(asked, BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(8)));
        return new NbdOptionAnswer(BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(12)), Read(BinaryPrimitives.ReadInt32BigEndian(header.AsSpan(16)))!);
    }

    /// <summary>Chooses an export that has to be there.</summary>
    /// <returns>Its size and flags.</returns>
    internal (long Size, ushort Flags) Go(string name = "", NbdOption option = NbdOption.GO)
    {
        (long, ushort) told = default;
        var answer = Ask(option, Choice(name, 3));
        for (; answer.Reply == (uint)NbdOptionReply.INFO; answer = ReadReply((uint)option))
        {
            if (answer.Data.Length == 12)
                told = (BinaryPrimitives.ReadInt64BigEndian(answer.Data.AsSpan(2)), BinaryPrimitives.ReadUInt16BigEndian(answer.Data.AsSpan(10)));
        }

        Assert.Equal((uint)NbdOptionReply.ACK, answer.Reply);
        return told;
    }

    /// <summary>Sends bytes as they are. False when the server is gone.</summary>
    internal bool Send(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            var sent = _stream.Send(bytes, [], out var error);
            if (sent < 0 && error != Errno.EAGAIN)
                return false;
            if (sent < 0)
                Assert.True(Polling.Wait(_stream.Descriptor, forWriting: true, cancel: null, Deadline.Milliseconds), "the server does not take what is sent to it");
            else
                bytes = bytes[sent..];
        }

        return true;
    }

    /// <summary>Sends a request and takes its reply.</summary>
    internal NbdReply Do(NbdCommand command, ulong offset, uint length, ushort flags = 0, byte[]? payload = null, bool structured = true)
    {
        var cookie = (ulong)Random.Shared.NextInt64();
        Assert.True(Send(Request(command, offset, length, flags, cookie, payload)));
        var reply = ReadAnswer(structured ? null : command == NbdCommand.READ ? (int)length : 0);
        Assert.Equal(cookie, reply.Cookie);
        return reply;
    }

    internal byte[] ReadAt(ulong offset, uint length)
    {
        var reply = Do(NbdCommand.READ, offset, length);
        Assert.Equal(NbdError.None, reply.Error);
        return reply.Data;
    }

    internal void WriteAt(ulong offset, byte[] bytes, ushort flags = 0) =>
        Assert.Equal(NbdError.None, Do(NbdCommand.WRITE, offset, (uint)bytes.Length, flags, bytes).Error);

    /// <summary>Takes the next reply.</summary>
    /// <param name="simpleLength">How much data a simple reply without error has; null for none.</param>
    internal NbdReply ReadAnswer(int? simpleLength = null)
    {
        var header = Read(16) ?? throw new EndOfStreamException("the server closed the connection");
        var cookie = BinaryPrimitives.ReadUInt64BigEndian(header.AsSpan(8));
        if (BinaryPrimitives.ReadUInt32BigEndian(header) == 0x67446698)
        {
            var error = (NbdError)BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(4));
            return new NbdReply(cookie, error, null, 0, error == NbdError.None && simpleLength is { } length ? Read(length)! : []);
        }

        Assert.Equal(0x668e33efu, BinaryPrimitives.ReadUInt32BigEndian(header));
        Assert.Equal(1, header[5]);
        var type = BinaryPrimitives.ReadUInt16BigEndian(header.AsSpan(6));
        var payload = Read(BinaryPrimitives.ReadInt32BigEndian(Read(4)!))!;
        return type switch
        {
            0x8001 => new NbdReply(cookie, (NbdError)BinaryPrimitives.ReadUInt32BigEndian(payload), type, 0, payload[6..]),
            1 => new NbdReply(cookie, NbdError.None, type, BinaryPrimitives.ReadUInt64BigEndian(payload), payload[8..]),
            5 => new NbdReply(cookie, NbdError.None, type, BinaryPrimitives.ReadUInt32BigEndian(payload), payload[4..]),
            _ => new NbdReply(cookie, NbdError.None, type, 0, payload),
        };
    }

    /// <summary>Waits for so many bytes; null when the server closed the connection.</summary>
    internal byte[]? Read(int count)
    {
        var bytes = new byte[count];
        List<FileDescriptor> none = [];
        for (var at = 0; at < count;)
        {
            var came = _stream.Receive(bytes.AsSpan(at), none, out var error);
            if (came == 0 || (came < 0 && error != Errno.EAGAIN))
                return null;
            if (came > 0)
                at += came;
            else
                Assert.True(Polling.Wait(_stream.Descriptor, forWriting: false, cancel: null, Deadline.Milliseconds), "nothing comes from the server");
        }

        return bytes;
    }

    /// <summary>Waits until the server closes the connection; what comes before is passed over.</summary>
    internal void ExpectClosed()
    {
        while (Read(1) is not null)
        {
        }
    }

    private static byte[] Text(string text) => [.. Big((uint)Encoding.UTF8.GetByteCount(text)), .. Encoding.UTF8.GetBytes(text)];
}
