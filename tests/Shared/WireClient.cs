using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests;

/// <summary>A reply as it came.</summary>
internal sealed record WireReply(ushort Id, VfioUserCommand Command, uint Flags, Errno Error, byte[] Payload, List<FileDescriptor> Descriptors) : IDisposable
{
    internal bool IsReply => (Flags & 1) != 0;

    internal uint Word(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(Payload.AsSpan(offset));

    internal ulong Long(int offset) => BinaryPrimitives.ReadUInt64LittleEndian(Payload.AsSpan(offset));

    public void Dispose() => Descriptors.ForEach(descriptor => descriptor.Dispose());
}

/// <summary>A vfio-user client that sends what it is told to, wrong messages too, and has a piece of memory to share.</summary>
internal sealed class WireClient : IDisposable
{
    internal const int DeadlineMilliseconds = 20_000;
    internal const ulong MemorySize = 0x40000;

    private readonly UnixStream _stream;
    private readonly EventFd _never = new();
    private readonly FileDescriptor _file;
    private ushort _id;

    internal WireClient(string path)
    {
        UnixStream? stream = null;
        // EAGAIN: as many wait already as the server lets wait.
        WireFixture.Until(() => (stream = UnixStream.TryConnect(path, out var error)) is not null || error != Errno.EAGAIN, "room to connect");
        _stream = stream ?? throw new InvalidOperationException($"nobody listens on {path}");
        Memory = HostMemory.Allocate("virtbus-test", MemorySize, out _file);
    }

    internal HostMemory Memory { get; }

    internal FileDescriptor File => _file;

    internal EventFd Signal { get; } = new();

    /// <summary>Answers requests of the server that come before a reply that is waited for.</summary>
    internal Func<WireReply, byte[]?>? OnRequest { get; set; }

    /// <summary>Whether what comes is dropped while the server does not read, so that both go on.</summary>
    internal bool DrainsWhenFull { get; init; }

    /// <summary>Closes the connection; what else the client has stays.</summary>
    internal void HangUp() => _stream.Dispose();

    public void Dispose()
    {
        HangUp();
        _never.Dispose();
        Memory.Dispose();
        _file.Dispose();
        Signal.Dispose();
    }

    /// <summary>Sends bytes as they are. False when the server is gone.</summary>
    internal bool SendRaw(ReadOnlySpan<byte> bytes, params ReadOnlySpan<FileDescriptor> descriptors)
    {
        var since = Environment.TickCount64;
        while (!bytes.IsEmpty)
        {
            if (Environment.TickCount64 - since > DeadlineMilliseconds)
                Assert.Fail("the server does not take what is sent to it");
            var sent = _stream.Send(bytes, descriptors, out var error);
            if (sent < 0 && error != Errno.EAGAIN)
                return false;
            if (sent < 0)
            {
                if (DrainsWhenFull)
                    Drain();
                Polling.Wait(_stream.Descriptor, forWriting: true, _never, 100);
                continue;
            }

            bytes = bytes[sent..];
            descriptors = default;
        }

        return true;
    }

    internal ushort Send(VfioUserCommand command, byte[] payload, uint flags = 0, params ReadOnlySpan<FileDescriptor> descriptors)
    {
        SendRaw(Message(command, payload, flags, ++_id), descriptors);
        return _id;
    }

    /// <summary>Sends messages in one call. Their ids follow each other.</summary>
    internal ushort SendRun(ReadOnlySpan<(VfioUserCommand Command, byte[] Payload)> messages)
    {
        var first = (ushort)(_id + 1);
        List<byte> bytes = [];
        foreach (var (command, payload) in messages)
            bytes.AddRange(Message(command, payload, 0, ++_id));
        SendRaw(bytes.ToArray());
        return first;
    }

    /// <summary>Waits for a message; null when the server closed the connection.</summary>
    internal WireReply? Receive()
    {
        List<FileDescriptor> descriptors = [];
        if (Read(16, descriptors) is not { } header)
            return null;
        var size = BinaryPrimitives.ReadInt32LittleEndian(header.AsSpan(4));
        Assert.InRange(size, 16, 2 << 20);
        var payload = Read(size - 16, descriptors);
        if (payload is null)
            return null;
        return new WireReply(
            BinaryPrimitives.ReadUInt16LittleEndian(header),
            (VfioUserCommand)BinaryPrimitives.ReadUInt16LittleEndian(header.AsSpan(2)),
            BinaryPrimitives.ReadUInt32LittleEndian(header.AsSpan(8)),
            (Errno)BinaryPrimitives.ReadUInt32LittleEndian(header.AsSpan(12)),
            payload,
            descriptors);
    }

    /// <summary>Waits for the reply with an id; the server's requests before are answered by <see cref="OnRequest"/>.</summary>
    internal WireReply? ReceiveReply(ushort id)
    {
        while (Receive() is { } message)
        {
            if (message.IsReply)
            {
                Assert.Equal(id, message.Id);
                return message;
            }

            Answer(message);
        }

        return null;
    }

    internal void Answer(WireReply request)
    {
        Assert.NotNull(OnRequest);
        var reply = OnRequest(request);
        SendRaw(reply is null ? Message(request.Command, [], 0x21, request.Id) : Message(request.Command, reply, 1, request.Id));
    }

    /// <summary>Asks for something that has to go well.</summary>
    internal WireReply Do(VfioUserCommand command, byte[] payload, params ReadOnlySpan<FileDescriptor> descriptors)
    {
        var reply = ReceiveReply(Send(command, payload, 0, descriptors));
        Assert.NotNull(reply);
        Assert.Equal(command, reply.Command);
        Assert.Equal((1u, Errno.None), (reply.Flags, reply.Error));
        return reply;
    }

    /// <summary>Asks for something that has to be refused.</summary>
    internal Errno Fail(VfioUserCommand command, byte[] payload, params ReadOnlySpan<FileDescriptor> descriptors)
    {
        using var reply = ReceiveReply(Send(command, payload, 0, descriptors));
        Assert.NotNull(reply);
        Assert.Equal(command, reply.Command);
        Assert.Equal(0x21u, reply.Flags);
        Assert.Empty(reply.Payload);
        return reply.Error;
    }

    internal void Greet(string? text = QemuText) => Do(VfioUserCommand.VERSION, Version(text)).Dispose();

    internal uint ReadRegister(uint region, ulong offset)
    {
        using var reply = Do(VfioUserCommand.REGION_READ, Access(region, offset, 4));
        Assert.Equal(Access(region, offset, 4), reply.Payload[..16]);
        return reply.Word(16);
    }

    internal void WriteRegister(uint region, ulong offset, uint value)
    {
        using var reply = Do(VfioUserCommand.REGION_WRITE, Access(region, offset, 4, Words(value)));
        Assert.Equal(Access(region, offset, 4), reply.Payload);
    }

    /// <summary>Programs the device's engine.</summary>
    internal void StartDma(uint command, ulong address, uint length)
    {
        using var first = Do(VfioUserCommand.REGION_WRITE, Access(0, WireDevice.DmaAddress, 8, Longs(address)));
        WriteRegister(0, WireDevice.DmaLength, length);
        WriteRegister(0, WireDevice.DmaCommand, command);
    }

    /// <summary>Waits until the server closes the connection; what comes before is passed over.</summary>
    internal void ExpectClosed()
    {
        while (Receive() is { } message)
            message.Dispose();
    }

    /// <summary>Drops what has come, without waiting.</summary>
    internal void Drain()
    {
        var buffer = new byte[4096];
        List<FileDescriptor> descriptors = [];
        while (_stream.Receive(buffer, descriptors, out _) > 0)
        {
        }

        descriptors.ForEach(descriptor => descriptor.Dispose());
    }

    internal void WaitForData() => Assert.True(Polling.Wait(_stream.Descriptor, forWriting: false, _never, DeadlineMilliseconds));

    private byte[]? Read(int count, List<FileDescriptor> descriptors)
    {
        var buffer = new byte[count];
        var have = 0;
        while (have < count)
        {
            var got = _stream.Receive(buffer.AsSpan(have), descriptors, out var error);
            if (got > 0)
                have += got;
            else if (got == 0 || error is Errno.ECONNRESET)
                return null;
            else if (!Polling.Wait(_stream.Descriptor, forWriting: false, _never, DeadlineMilliseconds))
                Assert.Fail("the server does not answer");
        }

        return buffer;
    }
}
