using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.VfioUser;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>Messages packed by hand that no good client sends: each gets its errno or a closed connection, and leaves nothing.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserBadMessageTests : IDisposable
{
    private readonly WireFixture _fixture = new();
    private readonly int _descriptors;
    private readonly int _mappings;

    public VfioUserBadMessageTests()
    {
        using (var warmUp = new WireClient(_fixture.Socket))
        {
            warmUp.Greet();
            warmUp.ReadRegister(0, 0);
        }

        _fixture.WaitIdle(1);
        _descriptors = Kernel.DescriptorsBefore();
        _mappings = Kernel.Mappings;
    }

    public void Dispose()
    {
        // Whatever came: the next client is served and nothing is left of those before.
        using (var next = new WireClient(_fixture.Socket))
        {
            next.Greet();
            next.ReadRegister(0, 0);
        }

        _fixture.WaitIdle(_fixture.Server.Connections);
        Assert.Equal((_descriptors, _mappings), (Kernel.Descriptors, Kernel.Mappings));
        Assert.Equal(0, _fixture.Log.Count(1107));
        _fixture.Dispose();
    }

    private WireClient Connect()
    {
        var client = new WireClient(_fixture.Socket);
        client.Greet();
        return client;
    }

    public static TheoryData<string, byte[]> Greetings => new()
    {
        { "not VERSION", Message(DEVICE_GET_INFO, Words(16, 0, 0, 0)) },
        { "not VERSION", Message(REGION_READ, Access(0, 0, 4)) },
        { "size, descriptors or flags", Message(VERSION, []) },
        { "size, descriptors or flags", Message(VERSION, [0, 0, 0]) },
        { "another major version", Message(VERSION, Version(QemuText, 1)) },
        { "no NUL at its end", Message(VERSION, [0, 0, 0, 0, (byte)'{', (byte)'}']) },
        { "no JSON", Message(VERSION, Version("{")) },
        { "no JSON", Message(VERSION, Version("{}{}")) },
        { "no JSON", Message(VERSION, Version(new string('[', 1000))) },
        { "no JSON", Message(VERSION, Version("""{"capabilities":{"max_msg_fd\ud800":1}}""")) },
        { "no JSON object", Message(VERSION, Version("[]")) },
        { "no JSON object", Message(VERSION, Version("""{"capabilities":3}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"max_msg_fds":-1}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"max_msg_fds":"8"}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"max_data_xfer_size":0}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"max_data_xfer_size":1e300}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"pgsizes":6144}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"max_dma_maps":null}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"write_multiple":1}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"migration":{"pgsize":100}}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"twin_socket":true}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"twin_socket":{"supported":0}}}""")) },
        { "value that it cannot have", Message(VERSION, Version("""{"capabilities":{"twin_socket":{"supported":true,"fd_index":99}}}""")) },
    };

    [Theory]
    [MemberData(nameof(Greetings))]
    public void Bad_greeting_is_refused_and_the_connection_closed(string why, byte[] message)
    {
        using var client = new WireClient(_fixture.Socket);
        client.SendRaw(message);
        using (var reply = client.Receive())
        {
            Assert.Equal((0x21u, Errno.EINVAL), (reply!.Flags, reply.Error));
            Assert.Empty(reply.Payload);
        }

        client.ExpectClosed();
        _fixture.Log.WaitFor(1105, why);
        // The device was not touched.
        Assert.Equal(1, _fixture.Device.Opens);
    }

    [Fact]
    public void Greeting_with_a_descriptor_is_refused()
    {
        using var client = new WireClient(_fixture.Socket);
        Assert.Equal(Errno.EINVAL, client.Fail(VERSION, Version(QemuText), client.File));
        client.ExpectClosed();
    }

    public static TheoryData<string, byte[]> Broken => new()
    {
        { "shorter than its header", Sized(DEVICE_RESET, 0) },
        { "shorter than its header", Sized(DEVICE_RESET, 15) },
        { "larger than one may be", Sized(REGION_WRITE, (1 << 20) + 33) },
        { "larger than one may be", Sized(REGION_WRITE, uint.MaxValue) },
        { "to nothing that was asked", Message(DMA_READ, new byte[16], 1) },
        { "to nothing that was asked", Message(VERSION, [], 0x21) },
    };

    [Theory]
    [MemberData(nameof(Broken))]
    public void What_is_no_message_closes_the_connection(string why, byte[] message)
    {
        using var client = Connect();
        client.SendRaw(message);
        client.ExpectClosed();
        _fixture.Log.WaitFor(1104, why);
    }

    [Fact]
    public void Reply_in_place_of_a_greeting_closes_the_connection()
    {
        using var client = new WireClient(_fixture.Socket);
        client.SendRaw(Message(VERSION, Version(QemuText), 1));
        client.ExpectClosed();
        _fixture.Log.WaitFor(1104, "to nothing that was asked");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(15)]
    [InlineData(16)]
    [InlineData(31)]
    public void Stream_that_ends_in_a_message_leaves_nothing(int length)
    {
        using (var client = Connect())
            client.SendRaw(Message(REGION_READ, Access(0, 0, 4)).AsSpan(0, length), client.File);
        _fixture.Log.WaitFor(1104, "in the middle of a message");
    }

    [Fact]
    public void Descriptors_in_the_middle_of_a_message_close_the_connection()
    {
        using var fixture = new WireFixture(new VfioUserServerOptions { HeaderByHeader = true });
        using var client = new WireClient(fixture.Socket);
        client.Greet();
        var message = Message(DMA_MAP, Map(Base, 0x1000));
        client.SendRaw(message.AsSpan(0, 16));
        client.SendRaw(message.AsSpan(16), client.File);
        client.ExpectClosed();
        fixture.Log.WaitFor(1104, "in the middle of a message");
    }

    [Fact]
    public void Twice_as_many_descriptors_as_were_said_are_taken_all_the_same()
    {
        using var client = Connect();
        client.Do(DEVICE_SET_IRQS, Irqs(0x24, 2, 0, 32), [.. Enumerable.Repeat(client.Signal.Descriptor, 32)]).Dispose();
        Assert.True(_fixture.Device.IsBound(2, 31));
    }

    public static TheoryData<ushort, string, byte[]> Refused => new()
    {
        { (ushort)VERSION, "settled already", Version(QemuText) },
        { 0, "not one that a client sends", [] },
        { (ushort)DMA_READ, "not one that a client sends", Longs(0, 4) },
        { (ushort)DMA_WRITE, "not one that a client sends", [.. Longs(0, 4), 1, 2, 3, 4] },
        { 14, "not one that a client sends", new byte[16] },
        { 19, "not one that a client sends", new byte[16] },
        { 0xffff, "not one that a client sends", [] },

        { (ushort)DEVICE_GET_INFO, "shorter than its command", [] },
        { (ushort)DEVICE_GET_INFO, "shorter than its command", new byte[15] },
        { (ushort)DEVICE_GET_INFO, "argsz is smaller", Words(15, 0, 0, 0) },
        { (ushort)DEVICE_GET_REGION_INFO, "shorter than its command", new byte[31] },
        { (ushort)DEVICE_GET_REGION_INFO, "argsz is smaller", [.. Words(31, 0, 0, 0), .. Longs(0, 0)] },
        { (ushort)DEVICE_GET_REGION_INFO, "no region of that index", [.. Words(32, 0, 10, 0), .. Longs(0, 0)] },
        { (ushort)DEVICE_GET_REGION_INFO, "no region of that index", [.. Words(32, 0, uint.MaxValue, 0), .. Longs(0, 0)] },
        { (ushort)DEVICE_GET_IRQ_INFO, "shorter than its command", new byte[12] },
        { (ushort)DEVICE_GET_IRQ_INFO, "no interrupt index", Words(16, 0, 5, 0) },
        { (ushort)DEVICE_GET_REGION_IO_FDS, "shorter than its command", new byte[12] },
        { (ushort)DEVICE_GET_REGION_IO_FDS, "argsz is smaller", Words(8, 0, 0, 0) },
        { (ushort)DEVICE_GET_REGION_IO_FDS, "are 0 in a request", Words(96, 1, 0, 0) },
        { (ushort)DEVICE_GET_REGION_IO_FDS, "are 0 in a request", Words(96, 0, 0, 1) },
        { (ushort)DEVICE_GET_REGION_IO_FDS, "no region of that index", Words(96, 0, 10, 0) },
        { (ushort)DEVICE_RESET, "longer than its command", [0] },

        { (ushort)REGION_READ, "shorter than its command", new byte[15] },
        { (ushort)REGION_READ, "size is not that of its data", [.. Access(0, 0, 4), 0] },
        { (ushort)REGION_READ, "more is asked for than one message", Access(0, 0, (1 << 20) + 1) },
        { (ushort)REGION_READ, "more is asked for than one message", Access(0, 0, uint.MaxValue) },
        { (ushort)REGION_READ, "no region of that index", Access(10, 0, 4) },
        { (ushort)REGION_READ, "does not allow that access", Access(8, 0, 4) },
        { (ushort)REGION_READ, "leaves the region", Access(7, 253, 4) },
        { (ushort)REGION_READ, "leaves the region", Access(7, ulong.MaxValue, 4) },
        { (ushort)REGION_WRITE, "shorter than its command", new byte[15] },
        { (ushort)REGION_WRITE, "size is not that of its data", Access(0, 0, 4) },
        { (ushort)REGION_WRITE, "size is not that of its data", Access(0, 0, 4, 1, 2, 3) },
        { (ushort)REGION_WRITE, "size is not that of its data", Access(0, 0, 4, 1, 2, 3, 4, 5) },
        { (ushort)REGION_WRITE, "more is asked for than one message", Access(0, 0, 0xfffffff0, 1, 2, 3, 4) },
        { (ushort)REGION_WRITE, "no region of that index", Access(10, 0, 4, 1, 2, 3, 4) },
        { (ushort)REGION_WRITE, "does not allow that access", Access(9, 0, 4, 1, 2, 3, 4) },
        { (ushort)REGION_WRITE, "leaves the region", Access(7, 254, 4, 1, 2, 3, 4) },
        { (ushort)REGION_WRITE_MULTI, "shorter than its command", new byte[7] },
        { (ushort)REGION_WRITE_MULTI, "size is not that of its data", [.. Longs(2), .. new byte[24]] },
        { (ushort)REGION_WRITE_MULTI, "size is not that of its data", [.. Longs(1), .. new byte[25]] },
        { (ushort)REGION_WRITE_MULTI, "size is not that of its data", [.. Longs(0x0aaaaaaa_aaaaaaab), .. new byte[24]] },
        { (ushort)REGION_WRITE_MULTI, "has no data, or more than fits", [.. Longs(1), .. Longs(0), .. Words(0, 9), .. Longs(0)] },
        { (ushort)REGION_WRITE_MULTI, "has no data, or more than fits", [.. Longs(1), .. Longs(0), .. Words(0, 0), .. Longs(0)] },
        { (ushort)REGION_WRITE_MULTI, "leaves the region", [.. Longs(1), .. Longs(WireDevice.BarSize), .. Words(0, 4), .. Longs(0)] },

        { (ushort)DMA_MAP, "shorter than its command", new byte[31] },
        { (ushort)DMA_MAP, "argsz is smaller", Map(Base, 0x1000, argsz: 31) },
        { (ushort)DMA_MAP, "allow no access", Map(Base, 0x1000, flags: 0) },
        { (ushort)DMA_MAP, "flags are unknown", Map(Base, 0x1000, flags: 0x13) },
        { (ushort)DMA_MAP, "no descriptor came", Map(Base, 0x1000, flags: 7) },
        { (ushort)DMA_MAP, "no descriptor came", Map(Base, 0x1000, flags: 0xB) },
        { (ushort)DMA_MAP, "empty or not of whole pages", Map(Base, 0) },
        { (ushort)DMA_MAP, "empty or not of whole pages", Map(Base + 1, 0x1000) },
        { (ushort)DMA_MAP, "empty or not of whole pages", Map(Base, 0x1001) },
        { (ushort)DMA_MAP, "wraps", Map(0xffff_ffff_ffff_f000, 0x2000) },
        { (ushort)DMA_UNMAP, "shorter than its command", new byte[23] },
        { (ushort)DMA_UNMAP, "argsz is smaller", Unmap(Base, 0x1000, argsz: 23) },
        { (ushort)DMA_UNMAP, "empty or not of whole pages", Unmap(Base, 0) },
        { (ushort)DMA_UNMAP, "empty or not of whole pages", Unmap(Base + 8, 0x1000) },
        { (ushort)DMA_UNMAP, "wraps", Unmap(0x2000, 0xffff_ffff_ffff_f000) },
        { (ushort)DMA_UNMAP, "do not go together", Unmap(0, 0, 3) },
        { (ushort)DMA_UNMAP, "flags are unknown", Unmap(Base, 0x1000, 4) },
        { (ushort)DMA_UNMAP, "but a range is named", Unmap(Base, 0x1000, 2) },
        { (ushort)DMA_UNMAP, "shorter than its command", Unmap(Base, 0x1000, 1) },
        { (ushort)DMA_UNMAP, "size is not that of the range", [.. Unmap(Base, 0x4000_0000, 1, 48), .. Longs(0x1000, 16)] },
        { (ushort)DMA_UNMAP, "size is not that of the range", [.. Unmap(Base, 0x1000, 1, 48), .. Longs(0x800, 8)] },
        { (ushort)DMA_UNMAP, "size is not that of the range", [.. Unmap(Base, 0x1000, 1, 48), .. Longs(0x3000, 8)] },
        { (ushort)DMA_UNMAP, "larger than an answer", [.. Unmap(Base, 0x1000, 1, 47), .. Longs(0x1000, 8)] },
        { (ushort)DMA_UNMAP, "larger than an answer", [.. Unmap(Base, 0x1000, 1, 48), .. Longs(0x1000, 16)] },
        { (ushort)DMA_UNMAP, "larger than an answer", [.. Unmap(Base, 0x1000, 1, uint.MaxValue), .. Longs(0x1000, (1 << 20) + 1)] },
        { (ushort)DMA_UNMAP, "larger than an answer", [.. Unmap(0, 1UL << 40, 1, uint.MaxValue), .. Longs(0x1000, 1UL << 25)] },
        { (ushort)DMA_UNMAP, "", [.. Unmap(Base, 0x1000, 1, 48), .. Longs(0x1000, 8)] },

        { (ushort)DEVICE_SET_IRQS, "shorter than its command", new byte[19] },
        { (ushort)DEVICE_SET_IRQS, "argsz is smaller", Words(19, 0x21, 0, 0, 1) },
        { (ushort)DEVICE_SET_IRQS, "size is not that of its data", Irqs(0x22, 2, 0, 4, 1, 1, 1) },
        { (ushort)DEVICE_SET_IRQS, "size is not that of its data", Irqs(0x22, 2, 0, uint.MaxValue, 1) },
        { (ushort)DEVICE_SET_IRQS, "size is not that of its data", Irqs(0x21, 2, 0, 1, 1) },
        { (ushort)DEVICE_SET_IRQS, "exactly one kind of data", Irqs(0x20, 0, 0, 1) },
        { (ushort)DEVICE_SET_IRQS, "exactly one kind of data", Irqs(0x1, 0, 0, 1) },
        { (ushort)DEVICE_SET_IRQS, "exactly one kind of data", Irqs(0x25, 0, 0, 1) },
        { (ushort)DEVICE_SET_IRQS, "exactly one kind of data", Irqs(0x31, 0, 0, 1) },
        { (ushort)DEVICE_SET_IRQS, "exactly one kind of data", Irqs(0x61, 0, 0, 1) },
        { (ushort)DEVICE_SET_IRQS, "", Irqs(0x21, 5, 0, 1) },
        { (ushort)DEVICE_SET_IRQS, "", Irqs(0x21, 2, 31, 2) },
        { (ushort)DEVICE_SET_IRQS, "", Irqs(0x21, 2, uint.MaxValue, 2) },
        { (ushort)DEVICE_SET_IRQS, "", Irqs(0x21, 1, 0, 1) },

        { (ushort)DEVICE_FEATURE, "shorter than its command", Words(8) },
        { (ushort)DEVICE_FEATURE, "argsz is smaller", Words(7, 0x10001) },
        { (ushort)DEVICE_FEATURE, "do not go together", Words(16, 1) },
        { (ushort)DEVICE_FEATURE, "do not go together", Words(16, 0x30001) },
        { (ushort)DEVICE_FEATURE, "flags are unknown", Words(16, 0x80001 | 0x10000) },
        { (ushort)DEVICE_FEATURE, "cannot be used that way", [.. Words(16, 0x20001), .. Longs(0)] },
        { (ushort)DEVICE_FEATURE, "cannot be used that way", Words(16, 0x10006) },
        { (ushort)DEVICE_FEATURE, "cannot be used that way", Words(16, 0x60008) },
        { (ushort)DEVICE_FEATURE, "smaller than the answer", Words(15, 0x10001) },
        { (ushort)DEVICE_FEATURE, "shorter than its command", Words(16, 0x20002, 0) },
        { (ushort)DEVICE_FEATURE, "", [.. Words(16, 0x20002), .. Longs(0)] },
        { (ushort)DEVICE_FEATURE, "", [.. Words(16, 0x20002), .. Longs(99)] },
        { (ushort)DEVICE_FEATURE, "shorter than its command", [.. Words(24, 0x20006), .. Longs(4096)] },
        { (ushort)DEVICE_FEATURE, "shorter than its ranges", [.. Words(24, 0x20006), .. Longs(4096, 1)] },
        { (ushort)DEVICE_FEATURE, "shorter than its ranges", [.. Words(24, 0x20006), .. Longs(4096, 0x1000_0001, 0, 0)] },
        { (ushort)DEVICE_FEATURE, "", [.. Words(40, 0x20006), .. Longs(4096, 1, 1, 4096)] },
        { (ushort)DEVICE_FEATURE, "shorter than its command", [.. Words(40, 0x10008), .. Longs(0, 4096)] },
        { (ushort)DEVICE_FEATURE, "none that a log has", [.. Words(40, 0x10008), .. Longs(0, 4096, 2048)] },
        { (ushort)DEVICE_FEATURE, "none that a log has", [.. Words(40, 0x10008), .. Longs(0, 0, 4096)] },
        { (ushort)DEVICE_FEATURE, "none that a log has", [.. Words(40, 0x10008), .. Longs(1, 4096, 4096)] },
        { (ushort)DEVICE_FEATURE, "larger than an answer", [.. Words(39, 0x10008), .. Longs(0, 4096, 4096)] },
        { (ushort)DEVICE_FEATURE, "larger than an answer", [.. Words(uint.MaxValue, 0x10008), .. Longs(0, 1UL << 60, 4096)] },
        { (ushort)DEVICE_FEATURE, "", [.. Words(40, 0x10008), .. Longs(0, 4096, 4096)] },

        { (ushort)MIG_DATA_READ, "shorter than its command", Words(8) },
        { (ushort)MIG_DATA_READ, "more is asked for", Words(8 + 99, 100) },
        { (ushort)MIG_DATA_READ, "more is asked for", Words(uint.MaxValue, (1 << 20) + 1) },
        { (ushort)MIG_DATA_READ, "no state of the device is being read", Words(108, 100) },
        { (ushort)MIG_DATA_WRITE, "shorter than its command", Words(8) },
        { (ushort)MIG_DATA_WRITE, "size is not that of its data", Words(12, 4) },
        { (ushort)MIG_DATA_WRITE, "size is not that of its data", Words(12, uint.MaxValue, 0) },
        { (ushort)MIG_DATA_WRITE, "no state of the device is being written", Words(12, 4, 0) },
    };

    [Theory]
    [MemberData(nameof(Refused))]
    public void Request_that_makes_no_sense_is_EINVAL_and_the_session_goes_on(ushort number, string why, byte[] payload)
    {
        var command = (VfioUserCommand)number;
        using var client = Connect();
        Assert.Equal(Errno.EINVAL, client.Fail(command, payload));
        _fixture.Log.WaitFor(1104, why);
        // The same without an answer wanted: nothing comes but the next one's.
        client.Send(command, payload, 0x10);
        Assert.Equal(0u, client.ReadRegister(0, 0));
        Assert.Equal(2, _fixture.Server.BadMessages);
    }

    /// <summary>Section 6.3 of the semantics: GET and SET together only with PROBE, and what a feature has no direction for is EINVAL.</summary>
    [Theory]
    [InlineData(1u, 0x5u, Errno.None)]
    [InlineData(1u, 0x6u, Errno.EINVAL)]
    [InlineData(1u, 0x7u, Errno.EINVAL)]
    [InlineData(2u, 0x5u, Errno.None)]
    [InlineData(2u, 0x6u, Errno.None)]
    [InlineData(2u, 0x7u, Errno.None)]
    [InlineData(2u, 0x4u, Errno.None)]
    [InlineData(2u, 0x3u, Errno.EINVAL)]
    [InlineData(2u, 0x0u, Errno.EINVAL)]
    [InlineData(2u, 0xDu, Errno.EINVAL)]
    [InlineData(6u, 0x6u, Errno.None)]
    [InlineData(6u, 0x5u, Errno.EINVAL)]
    [InlineData(7u, 0x6u, Errno.None)]
    [InlineData(8u, 0x5u, Errno.None)]
    [InlineData(8u, 0x6u, Errno.EINVAL)]
    [InlineData(9u, 0x5u, Errno.None)]
    [InlineData(9u, 0x6u, Errno.EINVAL)]
    [InlineData(0u, 0x6u, Errno.ENOTTY)]
    [InlineData(3u, 0x6u, Errno.ENOTTY)]
    [InlineData(5u, 0x6u, Errno.ENOTTY)]
    [InlineData(11u, 0x5u, Errno.ENOTTY)]
    [InlineData(0xFFFFu, 0x4u, Errno.ENOTTY)]
    public void Feature_is_probed_by_its_direction_and_does_nothing(uint feature, uint flags, Errno errno)
    {
        using var client = Connect();
        var request = Words(8, feature | (flags << 16));
        if (errno != Errno.None)
        {
            Assert.Equal(errno, client.Fail(DEVICE_FEATURE, request));
            return;
        }
        using (var reply = client.Do(DEVICE_FEATURE, request))
            Assert.Equal(request, reply.Payload);
        Assert.Equal(VfioMigrationState.Running, _fixture.Device.Migration!.State);
    }

    /// <summary>Section 6.5: what a log may be started with and asked for.</summary>
    [Fact]
    public void Log_is_refused_with_the_errno_of_its_rule()
    {
        using var client = Connect();
        Assert.Equal(Errno.EINVAL, Start(4096, 0x800, 0x1000));
        Assert.Equal(Errno.EINVAL, Start(4096, 0x1000, 0x800));
        Assert.Equal(Errno.EINVAL, Start(4096, 0x1000, 0));
        Assert.Equal(Errno.EINVAL, Start(3000, 0, 0x1000));
        Assert.Equal(Errno.EINVAL, Start(2048, 0, 0x1000));
        Assert.Equal(Errno.EINVAL, Start(4096, 0, 0x2000, 0x1000, 0x1000));
        Assert.Equal(Errno.EOVERFLOW, Start(4096, ulong.MaxValue - 0xFFF, 0x2000));
        Assert.Equal(Errno.E2BIG, Start(4096, [.. Enumerable.Range(0, 257).SelectMany(i => new[] { (ulong)i << 13, 0x1000ul })]));
        Assert.Equal(Errno.EINVAL, Report(0, 0x1000));
        // As many as there may be, and the last one ends where the addresses do.
        client.Do(DEVICE_FEATURE, Message(4096, [.. Enumerable.Range(0, 255).SelectMany(i => new[] { (ulong)i << 13, 0x1000ul }), 0xFFFF_FFFF_FFFF_F000, 0x1000])).Dispose();
        Assert.Equal(Errno.EINVAL, Start(4096, 0, 0x1000));
        Assert.Equal(Errno.EOVERFLOW, Report(0x2000, 0xFFFF_FFFF_FFFF_F000));
        client.Do(DEVICE_FEATURE, [.. Words(48, 0x10008), .. Longs(0, 0x1000, 4096)]).Dispose();

        static byte[] Message(ulong pageSize, ulong[] ranges) =>
            [.. Words((uint)(24 + (ranges.Length * 8)), 0x20006), .. Longs(pageSize, (ulong)ranges.Length / 2), .. Longs(ranges)];

        Errno Start(ulong pageSize, params ulong[] ranges) => client.Fail(DEVICE_FEATURE, Message(pageSize, ranges));

        Errno Report(ulong start, ulong size) => client.Fail(DEVICE_FEATURE, [.. Words(1 << 20, 0x10008), .. Longs(start, size, 4096)]);
    }

    [Theory]
    [InlineData(true, Errno.EIO)]
    [InlineData(false, Errno.ENOTTY)]
    public void What_the_device_refuses_has_the_devices_errno(bool read, Errno errno)
    {
        using var client = Connect();
        Assert.Equal(errno, read ? client.Fail(REGION_READ, Access(9, 0, 4)) : client.Fail(DEVICE_FEATURE, Words(100, 0x10000 | 3)));
    }

    [Theory]
    [InlineData(0x40u)]
    [InlineData(0x20u)]
    [InlineData(0x2u)]
    [InlineData(0xfu)]
    [InlineData(0x80000000u)]
    public void Header_with_flags_that_a_command_does_not_have_is_EINVAL(uint flags)
    {
        using var client = Connect();
        using (var reply = client.ReceiveReply(client.Send(REGION_READ, Access(0, 0, 4), flags)))
            Assert.Equal((0x21u, Errno.EINVAL), (reply!.Flags, reply.Error));
        client.ReadRegister(0, 0);
    }

    [Fact]
    public void Overlapping_maps_are_EEXIST_and_leave_nothing()
    {
        using var client = Connect();
        client.Do(DMA_MAP, Map(Base, 0x2000), client.File).Dispose();
        var mappings = Kernel.Mappings;
        Assert.Equal(Errno.EEXIST, client.Fail(DMA_MAP, Map(Base + 0x1000, 0x1000), client.File));
        Assert.Equal(Errno.EEXIST, client.Fail(DMA_MAP, Map(Base + 0x1000, 0x1000)));
        Assert.Equal(Errno.EEXIST, client.Fail(DMA_MAP, Map(Base - 0x1000, 0x4000), client.File));
        Assert.Equal(mappings, Kernel.Mappings);
    }

    [Fact]
    public void Unmap_that_would_split_a_map_is_EINVAL_and_changes_nothing()
    {
        using var client = Connect();
        client.Do(DMA_MAP, Map(Base, 0x2000), client.File).Dispose();
        client.Do(DMA_MAP, Map(Base + 0x2000, 0x1000), client.File).Dispose();
        Assert.Equal(Errno.EINVAL, client.Fail(DMA_UNMAP, Unmap(Base + 0x1000, 0x2000)));
        client.StartDma(WireDevice.ReadHere, Base + 0x1ffc, 8);
        Assert.Equal(Fault.None, _fixture.Device.LastDma);
    }

    [Fact]
    public void Several_writes_of_which_one_is_bad_are_all_left_undone()
    {
        using var client = Connect();
        byte[] good = [.. Longs(0x100), .. Words(0, 4), .. Longs(7)];
        byte[] bad = [.. Longs(WireDevice.BarSize), .. Words(0, 4), .. Longs(7)];
        Assert.Equal(Errno.EINVAL, client.Fail(REGION_WRITE_MULTI, [.. Longs(2), .. good, .. bad]));
        Assert.Equal(0u, client.ReadRegister(0, 0x100));
        client.Do(REGION_WRITE_MULTI, [.. Longs(1), .. good]).Dispose();
        Assert.Equal(7u, client.ReadRegister(0, 0x100));
    }

    [Fact]
    public void Signals_that_are_bad_in_part_leave_those_that_were_there()
    {
        using var client = Connect();
        client.Do(DEVICE_SET_IRQS, Irqs(0x24, 2, 0, 1), client.Signal.Descriptor).Dispose();
        Assert.Equal(Errno.EINVAL, client.Fail(DEVICE_SET_IRQS, Irqs(0x24, 2, 0, 2), client.Signal.Descriptor, client.File));
        Assert.Equal((true, false), (_fixture.Device.IsBound(2, 0), _fixture.Device.IsBound(2, 1)));
    }

    [Theory]
    [InlineData(0x40000UL, 0x1000UL, Errno.ENXIO)]
    [InlineData(0UL, 0x41000UL, Errno.ENXIO)]
    [InlineData(0x7fff_ffff_ffff_f000UL, 0x1000UL, Errno.EINVAL)]
    [InlineData(0xffff_ffff_ffff_f000UL, 0x1000UL, Errno.EINVAL)]
    public void Map_beyond_the_end_of_its_file_is_refused(ulong offset, ulong size, Errno errno)
    {
        using var client = Connect();
        Assert.Equal(errno, client.Fail(DMA_MAP, Map(Base, size, offset), client.File));
    }

    [Fact]
    public void Descriptors_of_a_wrong_kind_or_number_are_refused_and_closed()
    {
        using var client = Connect();
        Assert.Equal(Errno.EBADF, client.Fail(DMA_MAP, Map(Base, 0x1000), client.Signal.Descriptor));
        Assert.Equal(Errno.EINVAL, client.Fail(DMA_MAP, Map(Base, 0x1000), client.File, client.File));
        Assert.Equal(Errno.EINVAL, client.Fail(DEVICE_SET_IRQS, Irqs(0x24, 0, 0, 1), client.File));
        Assert.Equal(Errno.EINVAL, client.Fail(DEVICE_SET_IRQS, Irqs(0x24, 2, 0, 1), client.Signal.Descriptor, client.Signal.Descriptor));
        Assert.Equal(Errno.EINVAL, client.Fail(DEVICE_SET_IRQS, Irqs(0x24, 2, 0, 3), client.Signal.Descriptor, client.Signal.Descriptor));
        Assert.Equal(Errno.EINVAL, client.Fail(DEVICE_SET_IRQS, Irqs(0x21, 0, 0, 1), client.Signal.Descriptor));
        Assert.Equal(Errno.EINVAL, client.Fail(REGION_READ, Access(0, 0, 4), client.File));
        Assert.Equal(Errno.EINVAL, client.Fail(DEVICE_RESET, [], client.File));
        Assert.False(_fixture.Device.IsBound(0, 0));
    }

    [Fact]
    public void Lines_about_a_client_that_sends_nonsense_are_few()
    {
        using var client = Connect();
        for (var i = 0; i < 1000; i++)
            Assert.Equal(Errno.EINVAL, client.Fail(DEVICE_RESET, [1]));
        Assert.Equal(1000, _fixture.Server.BadMessages);
        Assert.InRange(_fixture.Log.Count(1104), 1, 60);
    }

    private static byte[] Sized(VfioUserCommand command, uint size)
    {
        var message = Message(command, []);
        BinaryPrimitives.WriteUInt32LittleEndian(message.AsSpan(4), size);
        return message;
    }
}
