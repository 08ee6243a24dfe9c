using System.Net.Sockets;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.VfioUser;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireClient;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>What a server answers to messages packed by hand.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserServerTests : IDisposable
{
    private readonly WireFixture _fixture = new();

    public void Dispose() => _fixture.Dispose();

    private WireClient Connect(string? text = QemuText)
    {
        var client = new WireClient(_fixture.Socket);
        client.Greet(text);
        return client;
    }

    [Fact]
    public void Version_reply_fits_into_what_QEMU_has_room_for()
    {
        using var client = new WireClient(_fixture.Socket);
        using var reply = client.Do(VERSION, Version(QemuText));
        Assert.InRange(reply.Payload.Length + 16, 20, 16 + 4 + QemuText.Length + 1);
        Assert.InRange(reply.Payload.Length - 4, 1, VfioUserCapabilities.MaxReplyText);
        Assert.Equal(0u, reply.Word(0));
        Assert.Equal(0, reply.Payload[^1]);
        Assert.Empty(reply.Descriptors);
        var text = System.Text.Encoding.UTF8.GetString(reply.Payload[4..^1]);
        Assert.Equal(
            """{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096,"migration":{"pgsize":4096},"write_multiple":true}}""",
            text);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("{}")]
    [InlineData("""{"capabilities":{}}""")]
    [InlineData("""{"capabilities":{"write_multiple":false,"twin_socket":{"supported":false}}}""")]
    public void Version_offers_nothing_that_was_not_asked_for_and_says_its_limits(string? text)
    {
        using var fixture = new WireFixture(new VfioUserServerOptions { MaxDescriptors = 2, MaxDataTransfer = 4096, MaxDmaMaps = 10 });
        using var client = new WireClient(fixture.Socket);
        using var reply = client.Do(VERSION, Version(text));
        Assert.Equal(
            """{"capabilities":{"max_msg_fds":2,"max_data_xfer_size":4096,"max_dma_maps":10,"pgsizes":4096}}""",
            System.Text.Encoding.UTF8.GetString(reply.Payload[4..^1]));
        Assert.Empty(reply.Descriptors);
    }

    [Fact]
    public void Version_may_be_as_long_as_a_message()
    {
        var room = VfioUserProtocol.MaxMessage - 16 - 4 - 1;
        const string Before = "{\"capabilities\":{\"write_multiple\":true},\"x\":\"";
        using var client = new WireClient(_fixture.Socket);
        using var reply = client.Do(VERSION, Version(Before + new string('y', room - Before.Length - 2) + "\"}"));
        Assert.Contains("write_multiple", System.Text.Encoding.UTF8.GetString(reply.Payload), StringComparison.Ordinal);
    }

    [Fact]
    public void Client_that_takes_no_descriptors_gets_none()
    {
        using var client = new WireClient(_fixture.Socket);
        using (var greeting = client.Do(VERSION, Version("""{"capabilities":{"max_msg_fds":0,"twin_socket":{"supported":true}}}""")))
        {
            Assert.Empty(greeting.Descriptors);
            Assert.DoesNotContain("twin_socket", System.Text.Encoding.UTF8.GetString(greeting.Payload), StringComparison.Ordinal);
        }

        foreach (var region in new uint[] { 2, 3 })
        {
            using var info = client.Do(DEVICE_GET_REGION_INFO, [.. Words(1000, 0, region, 0), .. Longs(0, 0)]);
            Assert.Empty(info.Descriptors);
            // Readable and writable, no more: without a descriptor nothing is mapped.
            Assert.Equal((32, 3u), (info.Payload.Length, info.Word(4)));
        }

        using var doorbells = client.Do(DEVICE_GET_REGION_IO_FDS, Words(1000, 0, 0, 0));
        Assert.Empty(doorbells.Descriptors);
        Assert.Equal((16, 0u), (doorbells.Payload.Length, doorbells.Word(12)));
    }

    [Fact]
    public void Unmap_takes_a_descriptor_and_closes_it()
    {
        using var client = Connect();
        client.Do(DMA_MAP, Map(Base, 0x1000), client.File).Dispose();
        var before = Kernel.DescriptorsBefore();
        client.Do(DMA_UNMAP, Unmap(Base, 0x1000), client.File).Dispose();
        client.ReadRegister(0, 0);
        Assert.Equal(before, Kernel.Descriptors);
        client.StartDma(WireDevice.ReadHere, Base, 4);
        Assert.Equal(Errno.EFAULT, _fixture.Device.LastDma.Errno);
        Assert.Equal(0, _fixture.Server.BadMessages);
        Assert.Equal(0, _fixture.Log.Count(1106));
    }

    private static byte[] UnmapDirty(ulong address, ulong size, ulong bitmap, uint room = 4096) =>
        [.. Unmap(address, size, 1, room), .. Longs(0x1000, bitmap)];

    private static byte[] Report(ulong address, ulong size, uint room) => [.. Words(room, 0x10008), .. Longs(address, size, 0x1000)];

    // A log of all, and a page that the device wrote to.
    private static void WriteWithLog(WireClient client)
    {
        client.Do(DMA_MAP, Map(Base, 0x4000), client.File).Dispose();
        client.Do(DEVICE_FEATURE, [.. Words(24, 0x20006), .. Longs(0x1000, 0)]).Dispose();
        client.StartDma(WireDevice.WriteHere, Base + 0x1000, 4);
    }

    [Fact]
    public void Unmap_that_is_refused_keeps_the_written_pages()
    {
        using var client = Connect();
        WriteWithLog(client);
        // It would split the map.
        Assert.Equal(Errno.EINVAL, client.Fail(DMA_UNMAP, UnmapDirty(Base, 0x2000, 8)));
        using (var pages = client.Do(DMA_UNMAP, UnmapDirty(Base, 0x4000, 8)))
            Assert.Equal(0b10UL, pages.Long(40));
        client.Do(DMA_MAP, Map(Base, 0x4000), client.File).Dispose();
        using (var none = client.Do(DEVICE_FEATURE, Report(Base, 0x4000, 4096)))
            Assert.Equal(0UL, none.Long(32));
    }

    [Fact]
    public void Unmap_that_wants_pages_of_no_log_is_refused_and_the_memory_stays_mapped()
    {
        using var client = Connect();
        client.Do(DMA_MAP, Map(Base, 0x4000), client.File).Dispose();
        client.Fail(DMA_UNMAP, UnmapDirty(Base, 0x4000, 8));
        client.StartDma(WireDevice.ReadHere, Base, 4);
        Assert.Equal(Errno.None, _fixture.Device.LastDma.Errno);
        Assert.Equal(Errno.EEXIST, client.Fail(DMA_MAP, Map(Base, 0x4000), client.File));
    }

    [Fact]
    public void Unmap_of_pinned_memory_is_refused_and_keeps_the_written_pages()
    {
        using var client = Connect();
        WriteWithLog(client);
        using (var holder = _fixture.Device.Port.AddressSpace!.OpenAccess("holder", unmapping: null))
        {
            Assert.True(holder.TryPin(new IovaRange(new Iova(Base), 0x1000), DmaAccess.Read, out var pin, out _));
            Assert.Equal(Errno.EBUSY, client.Fail(DMA_UNMAP, UnmapDirty(Base, 0x4000, 8)));
            pin!.Dispose();
        }

        using var pages = client.Do(DMA_UNMAP, UnmapDirty(Base, 0x4000, 8));
        Assert.Equal(0b10UL, pages.Long(40));
    }

    [Fact]
    public void Pages_that_are_written_while_the_unmap_is_under_way_are_in_its_answer()
    {
        using var client = Connect();
        WriteWithLog(client);
        IoPin? pin = null;
        // The holder of a pin is asked when the unmap has begun and nothing is unmapped yet.
        using var holder = _fixture.Device.Port.AddressSpace!.OpenAccess("holder", _ =>
        {
            Assert.True(_fixture.Device.Port.TryWrite(new Iova(Base + 0x3000), [1]));
            pin!.Dispose();
        });
        Assert.True(holder.TryPin(new IovaRange(new Iova(Base), 0x1000), DmaAccess.Read, out pin, out _));
        using var pages = client.Do(DMA_UNMAP, UnmapDirty(Base, 0x4000, 8));
        Assert.Equal(0b1010UL, pages.Long(40));
    }

    [Fact]
    public void Pages_that_nobody_would_hear_of_stay_in_the_log()
    {
        using var client = Connect();
        WriteWithLog(client);
        client.Send(DEVICE_FEATURE, Report(Base, 0x4000, 4096), 0x10);
        client.Send(DMA_UNMAP, UnmapDirty(Base, 0x4000, 8), 0x10);
        using var pages = client.Do(DEVICE_FEATURE, Report(Base, 0x4000, 4096));
        Assert.Equal(0b10UL, pages.Long(32));
        client.StartDma(WireDevice.ReadHere, Base, 4);
        Assert.Equal(Errno.EFAULT, _fixture.Device.LastDma.Errno);
    }

    [Theory]
    [InlineData(8)]
    [InlineData(16)]
    [InlineData(13)]
    [InlineData(4000)]
    public void Bitmap_may_be_larger_than_it_need_be(int size)
    {
        using var client = Connect();
        WriteWithLog(client);
        // Of a report the answer says how much of the room it needs.
        using (var report = client.Do(DEVICE_FEATURE, Report(Base, 0x4000, 32 + (uint)size)))
        {
            Assert.Equal((40, 40u), (report.Payload.Length, report.Word(0)));
            Assert.Equal(0b10UL, report.Long(32));
        }

        client.StartDma(WireDevice.WriteHere, Base + 0x3000, 4);
        using var pages = client.Do(DMA_UNMAP, UnmapDirty(Base, 0x4000, (ulong)size));
        Assert.Equal(40 + size, pages.Payload.Length);
        Assert.Equal(0b1000UL, pages.Long(40));
        Assert.All(pages.Payload[48..], b => Assert.Equal(0, b));
    }

    [Fact]
    public void State_that_could_not_be_answered_comes_with_the_next_answer()
    {
        _fixture.Device.State = [.. Enumerable.Range(0, 12_000).Select(i => (byte)i)];
        using var client = Connect();
        client.Do(DEVICE_FEATURE, [.. Words(16, 0x20002), .. Words(3, 0)]).Dispose();
        // The device gives 5,000 bytes a time.
        _fixture.Device.FailReadAt = 5000;
        Assert.Equal(Errno.EIO, client.Fail(MIG_DATA_READ, Words(8 + 20_000, 20_000)));
        List<byte> state = [];
        using (var first = client.Do(MIG_DATA_READ, Words(8 + 2000, 2000)))
            state.AddRange(first.Payload[8..]);
        using (var rest = client.Do(MIG_DATA_READ, Words(8 + 20_000, 20_000)))
            state.AddRange(rest.Payload[8..]);
        Assert.Equal(_fixture.Device.State, state);
    }

    [Fact]
    public void Client_that_takes_no_answers_is_dropped()
    {
        using var fixture = new WireFixture(new VfioUserServerOptions { AnswerTimeout = TimeSpan.FromMilliseconds(200) });
        using var client = new WireClient(fixture.Socket);
        client.Greet();
        // More than the sockets hold, and nothing is read.
        for (var i = 0; i < 8; i++)
            client.Send(REGION_READ, Access(0, 0, 1 << 20));
        fixture.WaitIdle(1);
        fixture.Log.WaitFor(1103, "does not take what is sent");
        using var next = new WireClient(fixture.Socket);
        next.Greet();
        next.ReadRegister(0, 0);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(1, 1)]
    [InlineData(2, 2)]
    [InlineData(7, 2)]
    public void Minor_version_is_the_lower_one(ushort asked, int answered)
    {
        using var client = new WireClient(_fixture.Socket);
        using var reply = client.Do(VERSION, Version("{}", 0, asked));
        Assert.Equal(answered, reply.Payload[2]);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("{}")]
    [InlineData("""{"capabilities":{}}""")]
    [InlineData("""{"capabilities":{"max_msg_fds":1024,"unknown":[1,{"a":null}]},"other":3}""")]
    [InlineData("""{"capabilities":{"twin_socket":{"supported":false}}}""")]
    public void Version_takes_what_leaves_things_out_or_says_more(string? text)
    {
        using var client = Connect(text);
        Assert.Equal(0u, client.ReadRegister(0, 0));
    }

    [Fact]
    public void Device_is_opened_by_the_greeting_and_closed_with_the_connection()
    {
        using (var client = new WireClient(_fixture.Socket))
        {
            Assert.False(_fixture.Device.IsOpen);
            client.Greet();
            Assert.True(_fixture.Device.IsOpen);
            Assert.True(_fixture.Server.IsConnected);
            Assert.StartsWith($"process {Environment.ProcessId} (", _fixture.VfioDevice.User);
        }

        _fixture.WaitIdle(1);
        Assert.False(_fixture.Device.IsOpen);
        Assert.False(_fixture.Server.IsConnected);
        using var next = Connect();
        Assert.Equal(2, _fixture.Device.Opens);
    }

    [Fact]
    public void Second_client_waits_until_the_first_is_gone()
    {
        var first = Connect();
        using var second = new WireClient(_fixture.Socket);
        var id = second.Send(VERSION, Version(QemuText));
        Assert.Equal(0u, first.ReadRegister(0, 0));
        Assert.Equal(1, _fixture.Server.Connections);
        first.Dispose();
        using var reply = second.ReceiveReply(id);
        Assert.Equal(Errno.None, reply!.Error);
    }

    [Fact]
    public void Device_that_is_open_elsewhere_is_refused_by_name()
    {
        Assert.True(_fixture.VfioDevice.TryOpen("web1", out var handle, out _));
        using (var client = new WireClient(_fixture.Socket))
        {
            Assert.Equal(Errno.EBUSY, client.Fail(VERSION, Version(QemuText)));
            client.ExpectClosed();
        }

        _fixture.Log.WaitFor(1105, "open by 'web1'");
        handle!.Dispose();
        using var next = Connect();
    }

    /// <summary>A VMM has both functions of a slot, each by its socket and with maps of its own; nobody else gets the other one.</summary>
    [Fact]
    public void Functions_of_one_group_go_to_one_process_only()
    {
        var group = new IommuGroup(7);
        using WireFixture first = new(null, group), second = new(null, group);
        using (var other = new VfioContainer("web1"))
        {
            Assert.True(other.TryOpen(first.VfioDevice, out _, out _));
            using var refused = new WireClient(second.Socket);
            Assert.Equal(Errno.EBUSY, refused.Fail(VERSION, Version(QemuText)));
            second.Log.WaitFor(1105, "user 'web1'");
        }

        using (var two = new WireClient(second.Socket))
        {
            two.Greet(QemuText);
            using (var one = new WireClient(first.Socket))
            {
                one.Greet(QemuText);
                Assert.Contains($"process {Environment.ProcessId} ", group.OwnerName, StringComparison.Ordinal);
                one.Do(DMA_MAP, Map(Base, 0x1000), one.File).Dispose();
                two.Do(DMA_MAP, Map(Base, 0x1000), two.File).Dispose();
                two.Memory.Write(0, "hello"u8);
                two.StartDma(WireDevice.ReadHere, Base, 5);
                Assert.Equal("hello"u8, second.Device.Bar.AsSpan((int)WireDevice.DmaData, 5));
                using var web = new VfioContainer("web1");
                Assert.False(web.TryAttachGroup(group, out _));
            }

            // With one gone the group is still the process's, and the other function works.
            first.WaitIdle(1);
            two.StartDma(WireDevice.ReadHere, Base, 5);
            Assert.Equal(Errno.None, second.Device.LastDma.Errno);
            Assert.Equal(DmaOwnerKind.User, group.OwnerKind);
        }

        second.WaitIdle(2);
        Assert.Equal(DmaOwnerKind.None, group.OwnerKind);
    }

    [Fact]
    public void Client_that_says_nothing_is_dropped()
    {
        using var fixture = new WireFixture(new VfioUserServerOptions { GreetingTimeout = TimeSpan.FromMilliseconds(50) });
        using var mute = new WireClient(fixture.Socket);
        mute.ExpectClosed();
        fixture.Log.WaitFor(1103, "it did not say who it is");
        using var slow = new WireClient(fixture.Socket);
        slow.SendRaw(Message(VERSION, Version(QemuText)).AsSpan(0, 30));
        slow.ExpectClosed();
        using var next = new WireClient(fixture.Socket);
        next.Greet();
    }

    [Fact]
    public void Device_info_has_regions_and_interrupts()
    {
        using var client = Connect();
        using var reply = client.Do(DEVICE_GET_INFO, Words(16, 0, 0, 0));
        Assert.Equal(Words(16, 3, 10, 5), reply.Payload);
    }

    [Fact]
    public void Region_info_asks_for_more_room_and_then_has_areas_and_one_descriptor()
    {
        using var client = Connect();
        using (var small = client.Do(DEVICE_GET_REGION_INFO, [.. Words(32, 0, 2, 0), .. Longs(0, 0)]))
        {
            Assert.Equal([.. Words(32 + 16 + 32, 7, 2, 0), .. Longs(0x4000, 0)], small.Payload);
            Assert.Empty(small.Descriptors);
        }

        using (var whole = client.Do(DEVICE_GET_REGION_INFO, [.. Words(80, 0, 2, 0), .. Longs(0, 0)]))
        {
            byte[] expected = [.. Words(80, 15, 2, 32), .. Longs(0x4000, 0), .. Words(1 | (1 << 16), 0, 2, 0), .. Longs(0x1000, 0x1000, 0x3000, 0x1000)];
            Assert.Equal(expected, whole.Payload);
            Assert.Single(whole.Descriptors);
        }
    }

    [Fact]
    public void Region_that_can_be_mapped_as_a_whole_needs_no_capability()
    {
        using var client = Connect();
        using var reply = client.Do(DEVICE_GET_REGION_INFO, [.. Words(32, 0, 3, 0), .. Longs(0, 0)]);
        Assert.Equal([.. Words(32, 7, 3, 0), .. Longs(0x2000, 0x2000)], reply.Payload);
        Assert.Single(reply.Descriptors);
    }

    [Fact]
    public void Region_of_a_type_says_so()
    {
        using var client = Connect();
        using var reply = client.Do(DEVICE_GET_REGION_INFO, [.. Words(100, 0, 9, 0), .. Longs(0, 0)]);
        Assert.Equal([.. Words(48, 9, 9, 32), .. Longs(16, 0), .. Words(2 | (1 << 16), 0, 0x8086, 3)], reply.Payload);
        Assert.Empty(reply.Descriptors);
    }

    [Theory]
    [InlineData(0u, 7u, 1u)]
    [InlineData(1u, 9u, 0u)]
    [InlineData(2u, 9u, 32u)]
    public void Interrupt_info_has_flags_and_count(uint index, uint flags, uint count)
    {
        using var client = Connect();
        using var reply = client.Do(DEVICE_GET_IRQ_INFO, Words(16, 0, index, 0));
        Assert.Equal(Words(16, flags, index, count), reply.Payload);
    }

    [Fact]
    public void Registers_are_read_and_written()
    {
        using var client = Connect();
        client.WriteRegister(0, 0x100, 0x12345678);
        Assert.Equal(0x12345678u, client.ReadRegister(0, 0x100));
        Assert.Equal([0x78, 0x56, 0x34, 0x12], _fixture.Device.Bar[0x100..0x104]);
        using var nothing = client.Do(REGION_READ, Access(0, 0, 0));
        Assert.Equal(16, nothing.Payload.Length);
    }

    [Fact]
    public void Largest_access_goes_through_in_one_message()
    {
        using var client = Connect();
        var data = new byte[1 << 20];
        new Random(1).NextBytes(data);
        client.Do(REGION_WRITE, Access(0, 0x1000, 1 << 20, data)).Dispose();
        using var reply = client.Do(REGION_READ, Access(0, 0x1000, 1 << 20));
        Assert.Equal(data, reply.Payload[16..]);
        // And the connection is as quick with small ones afterwards.
        Assert.Equal(BitConverter.ToUInt32(data), client.ReadRegister(0, 0x1000));
    }

    [Fact]
    public void Posted_writes_get_no_answer_and_are_seen_by_the_next_read()
    {
        using var client = Connect();
        for (var i = 0u; i < 100; i++)
            client.Send(REGION_WRITE, Access(0, i * 4, 4, Words(i)), 0x10);
        // A posted one that makes no sense is passed over.
        client.Send(REGION_WRITE, Access(99, 0, 4, Words(1)), 0x10);
        Assert.Equal(99u, client.ReadRegister(0, 99 * 4));
        Assert.Equal(1, _fixture.Server.BadMessages);
    }

    [Fact]
    public void Runs_of_reads_and_single_ones_are_answered_in_their_order()
    {
        using (var client = Connect())
        {
            for (var i = 0u; i < 64; i++)
                client.WriteRegister(0, 0x100 + (i * 4), i);
            for (var round = 0; round < 20; round++)
            {
                // In one call, so that they come in one receive; and then, with nothing behind it, one that is not to wait for more.
                var first = client.SendRun([.. Enumerable.Range(0, 64).Select(i => (REGION_READ, Access(0, 0x100 + ((ulong)i * 4), 4)))]);
                for (var i = 0; i < 64; i++)
                {
                    using var reply = client.ReceiveReply((ushort)(first + i));
                    Assert.Equal((uint)i, reply?.Word(16));
                }

                Assert.Equal((uint)round, client.ReadRegister(0, 0x100 + ((ulong)round * 4)));
            }

            client.SendRun([.. Enumerable.Repeat((REGION_READ, Access(0, 0, 4)), 64)]);
        }

        _fixture.WaitIdle(1);
        using var next = Connect();
    }

    [Fact]
    public void Client_that_closes_its_direction_behind_a_run_gets_all_answers()
    {
        var read = Message(REGION_READ, Access(0, 0x100, 4));
        for (var i = 0; i < 20; i++)
        {
            using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = DeadlineMilliseconds };
            socket.Connect(new UnixDomainSocketEndPoint(_fixture.Socket));
            using var stream = new NetworkStream(socket);
            stream.Write(Message(VERSION, Version("{}")));
            var header = new byte[16];
            stream.ReadExactly(header);
            stream.ReadExactly(new byte[BitConverter.ToInt32(header, 4) - 16]);
            stream.Write([.. Enumerable.Repeat(read, 64).SelectMany(bytes => bytes)]);
            stream.ReadExactly(new byte[64 * 36]);
            stream.Write(read);
            socket.Shutdown(SocketShutdown.Send);
            stream.ReadExactly(new byte[36]);
            Assert.Equal(0, stream.Read(header));
        }
    }

    [Fact]
    public void Several_writes_in_one_message_are_done_in_order()
    {
        using var client = Connect();
        byte[] entries =
        [
            .. Longs(0x100), .. Words(0, 4), .. Longs(0xffffffff_11111111),
            .. Longs(0x102), .. Words(0, 1), .. Longs(0x22),
            .. Longs(8), .. Words(4, 2), .. Longs(0x3344),
        ];
        using var reply = client.Do(REGION_WRITE_MULTI, [.. Longs(3), .. entries]);
        Assert.Equal(Longs(3), reply.Payload);
        Assert.Equal(0x11221111u, client.ReadRegister(0, 0x100));
        Assert.Equal(0u, client.ReadRegister(0, 0x104));
        Assert.Equal([0x44, 0x33], _fixture.Device.Ports[8..10]);
        client.Send(REGION_WRITE_MULTI, [.. Longs(1), .. Longs(0x100), .. Words(0, 4), .. Longs(5)], 0x10);
        Assert.Equal(5u, client.ReadRegister(0, 0x100));
    }

    [Fact]
    public void Mapped_memory_is_read_and_written_by_the_device()
    {
        using var client = Connect();
        client.Do(DMA_MAP, Map(Base, 0x10000, 0x2000), client.File).Dispose();
        client.Memory.Write(0x2010, "hello"u8);
        client.StartDma(WireDevice.ReadHere, Base + 0x10, 5);
        Assert.Equal("hello"u8, _fixture.Device.Bar.AsSpan((int)WireDevice.DmaData, 5));
        client.StartDma(WireDevice.WriteHere, Base + 0xfffb, 5);
        var seen = new byte[5];
        client.Memory.Read(0x11ffb, seen);
        Assert.Equal("hello"u8, seen);
        // Only what was mapped, with the access that was allowed.
        client.StartDma(WireDevice.WriteHere, Base + 0xfffc, 5);
        Assert.Equal(Errno.EFAULT, _fixture.Device.LastDma.Errno);
        client.Do(DMA_MAP, Map(Base + 0x10000, 0x1000, 0, 1), client.File).Dispose();
        client.StartDma(WireDevice.WriteHere, Base + 0x10000, 5);
        Assert.Equal(Errno.EACCES, _fixture.Device.LastDma.Errno);
    }

    [Fact]
    public void Unmap_takes_every_range_inside_and_none_is_no_error()
    {
        using var client = Connect();
        client.Do(DMA_UNMAP, Unmap(0, 0xfee00000)).Dispose();
        for (var i = 0UL; i < 4; i++)
            client.Do(DMA_MAP, Map(Base + (i * 0x10000), 0x1000), client.File).Dispose();
        client.Do(DMA_MAP, Map(0xffff_ffff_ffff_f000, 0x1000), client.File).Dispose();
        using (var reply = client.Do(DMA_UNMAP, Unmap(0, Base + 0x20000)))
            Assert.Equal(Unmap(0, Base + 0x20000), reply.Payload);
        // What a guest's IOMMU makes QEMU unmap: up to the last byte there is.
        client.Do(DMA_UNMAP, Unmap(0xfef00000, 0xffffffff01100000)).Dispose();
        client.Do(DMA_MAP, Map(0xffff_ffff_ffff_f000, 0x1000), client.File).Dispose();
        client.Do(DMA_MAP, Map(Base, 0x20000), client.File).Dispose();
    }

    [Fact]
    public void Unmap_of_all_takes_all()
    {
        using var client = Connect();
        client.Do(DMA_MAP, Map(0, 0x1000), client.File).Dispose();
        client.Do(DMA_MAP, Map(0xffff_ffff_ffff_f000, 0x1000), client.File).Dispose();
        using (var reply = client.Do(DMA_UNMAP, Unmap(0, 0, 2)))
            Assert.Equal(Unmap(0, 0, 2), reply.Payload);
        client.Do(DMA_MAP, Map(0, 0x1000), client.File).Dispose();
        client.StartDma(WireDevice.ReadHere, 0, 4);
        Assert.Equal(Fault.None, _fixture.Device.LastDma);
    }

    [Fact]
    public void Maps_are_limited_to_what_was_said()
    {
        using var fixture = new WireFixture(new VfioUserServerOptions { MaxDmaMaps = 2 });
        using var client = new WireClient(fixture.Socket);
        client.Greet();
        client.Do(DMA_MAP, Map(0, 0x1000), client.File).Dispose();
        client.Do(DMA_MAP, Map(0x1000, 0x1000), client.File).Dispose();
        Assert.Equal(Errno.ENOSPC, client.Fail(DMA_MAP, Map(0x2000, 0x1000), client.File));
        client.Do(DMA_UNMAP, Unmap(0, 0x1000)).Dispose();
        client.Do(DMA_MAP, Map(0x2000, 0x1000), client.File).Dispose();
    }

    [Fact]
    public void All_maps_of_one_file_cost_one_mapping_and_the_next_one_is_refused()
    {
        const int Most = 65535;
        var budget = new MappingBudget(1000, 1UL << 40);
        using var fixture = new WireFixture(new VfioUserServerOptions { Mappings = budget });
        using var client = new WireClient(fixture.Socket);
        client.Greet();
        var mappings = Kernel.Mappings;
        for (var i = 0ul; i < Most; i++)
            client.Do(DMA_MAP, Map(i * 0x2000, 0x1000, i % 64 * 0x1000), client.File).Dispose();
        Assert.Equal(Errno.ENOSPC, client.Fail(DMA_MAP, Map(Most * 0x2000ul, 0x1000), client.File));
        Assert.Equal(mappings + 1, Kernel.Mappings);
        client.Memory.Write(0x3f000, [1, 2, 3, 4]);
        client.StartDma(WireDevice.ReadHere, 63 * 0x2000, 4);
        Assert.Equal(0x04030201u, client.ReadRegister(0, WireDevice.DmaData));
        client.Do(DMA_UNMAP, Unmap(0, 0, 2)).Dispose();
        Assert.Equal(mappings, Kernel.Mappings);
    }

    [Fact]
    public void Client_that_shares_huge_files_takes_no_other_clients_reserve()
    {
        var budget = new MappingBudget(4096, 1UL << 41);
        using var fixture = new WireFixture(new VfioUserServerOptions { Mappings = budget });
        using var others = new WireFixture(new VfioUserServerOptions { Mappings = budget });
        using var calm = new WireClient(others.Socket);
        calm.Greet();
        using (var greedy = new WireClient(fixture.Socket))
        {
            greedy.Greet();
            var (refused, at) = (0, 0ul);
            for (var size = 1UL << 46; size >= 0x1000; size /= 2)
            {
                using var file = MemoryFile.Create("virtbus-huge", size);
                using var reply = greedy.ReceiveReply(greedy.Send(DMA_MAP, Map(at, size), 0, file))!;
                Assert.True(reply.Error is Errno.None or Errno.ENOSPC, $"{reply.Error} for {size}");
                refused += reply.Error == Errno.ENOSPC ? 1 : 0;
                at += size;
            }

            Assert.True(refused > 5, $"{refused} refused");
            calm.Do(DMA_MAP, Map(Base, WireClient.MemorySize), calm.File).Dispose();
            calm.StartDma(WireDevice.ReadHere, Base, 4);
            Assert.Equal(Fault.None, others.Device.LastDma);
        }

        fixture.WaitIdle(1);
        Assert.Equal(budget.AccountMappings, budget.Mappings);
    }

    [Fact]
    public void Client_that_nothing_can_be_reserved_for_is_turned_away_until_another_one_goes()
    {
        var budget = new MappingBudget(1, 1UL << 40);
        using var fixture = new WireFixture(new VfioUserServerOptions { Mappings = budget });
        using var others = new WireFixture(new VfioUserServerOptions { Mappings = budget });
        using (var first = new WireClient(fixture.Socket))
        {
            first.Greet();
            using var late = new WireClient(others.Socket);
            Assert.Equal(Errno.ENOSPC, late.Fail(VERSION, Version(QemuText)));
            late.ExpectClosed();
            others.Log.WaitFor(1105, "vm.max_map_count");
            Assert.Equal(0, others.Device.Opens);
        }

        fixture.WaitIdle(1);
        using var next = new WireClient(others.Socket);
        next.Greet();
        next.Do(DMA_MAP, Map(Base, 0x1000), next.File).Dispose();
    }

    [Fact]
    public void Memory_on_a_disk_is_refused_and_the_log_says_what_to_use()
    {
        using var client = Connect();
        using var file = DiskFile.TryOpen();
        Assert.SkipWhen(file is null, "the folder of the tests is in memory");
        Assert.Equal(Errno.EBADF, client.Fail(DMA_MAP, Map(Base, 0x1000), file));
        _fixture.Log.WaitFor(1104, "memory-backend-memfd");
        client.Do(DMA_MAP, Map(Base, 0x1000), client.File).Dispose();
    }

    [Fact]
    public void Two_clients_that_share_a_file_that_is_cut_both_lose_their_sessions()
    {
        Assert.SkipUnless(Mapping.IsGuardSupported, "no guard on this architecture: shrinking ends the process");
        using var fixture = new WireFixture();
        using var client = Connect();
        using var other = new WireClient(fixture.Socket);
        other.Greet();
        using var file = MemoryFile.Create("virtbus-test", 0x2000, sealedSize: false);
        client.Do(DMA_MAP, Map(Base, 0x1000), file).Dispose();
        other.Do(DMA_MAP, Map(Base, 0x1000, 0x1000), file).Dispose();
        Assert.Equal(0, Libc.ftruncate(file, 0));
        client.Do(REGION_WRITE, Access(0, WireDevice.DmaAddress, 8, Longs(Base))).Dispose();
        client.Do(REGION_WRITE, Access(0, WireDevice.DmaLength, 4, Words(4))).Dispose();
        client.Send(REGION_WRITE, Access(0, WireDevice.DmaCommand, 4, Words(WireDevice.ReadHere)));
        client.ExpectClosed();
        other.ExpectClosed();
        _fixture.WaitIdle(1);
        fixture.WaitIdle(1);
        Assert.Equal((1, 1), (_fixture.Log.Count(1112), fixture.Log.Count(1112)));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Maps_and_unmaps_that_come_together_keep_their_own_descriptors(bool headerByHeader)
    {
        // QEMU's listener sends them without waiting; each has its descriptor in a call of its own.
        using var fixture = new WireFixture(new VfioUserServerOptions { HeaderByHeader = headerByHeader });
        using var client = new WireClient(fixture.Socket);
        client.Greet();
        using var other = MemoryFile.Create("virtbus-other", 0x1000);
        var ids = new List<ushort>();
        for (var round = 0; round < 50; round++)
        {
            ids.Add(client.Send(DMA_MAP, Map(Base, 0x1000, 0x1000), 0, client.File));
            ids.Add(client.Send(DMA_MAP, Map(Base + 0x1000, 0x1000), 0, other));
            ids.Add(client.Send(REGION_READ, Access(0, 0, 4)));
            ids.Add(client.Send(DMA_UNMAP, Unmap(Base + 0x1000, 0x1000)));
            ids.Add(client.Send(DMA_MAP, Map(Base + 0x2000, 0x1000, 0x3000), 0, client.File));
            ids.Add(client.Send(DMA_UNMAP, Unmap(0, 0xfee00000)));
        }

        ids.Add(client.Send(DMA_MAP, Map(Base, 0x1000, 0x3000), 0, client.File));
        foreach (var id in ids)
        {
            using var reply = client.ReceiveReply(id);
            Assert.Equal(Errno.None, reply!.Error);
        }

        client.Memory.Write(0x3000, "mine"u8);
        client.StartDma(WireDevice.ReadHere, Base, 4);
        Assert.Equal("mine"u8, fixture.Device.Bar.AsSpan((int)WireDevice.DmaData, 4));
    }

    [Fact]
    public void Client_that_sends_several_messages_in_one_call_is_read_header_by_header_from_then_on()
    {
        using var client = Connect();
        client.Memory.Write(0, "mine"u8);
        for (var round = 0; round < 3; round++)
        {
            // The descriptor comes with the first byte of all of it, and belongs to the first message.
            var together = new[] { Message(DMA_MAP, Map(Base, 0x1000)), Message(REGION_READ, Access(0, 0, 4)), Message(REGION_READ, Access(0, 4, 4)) };
            client.SendRaw([.. together.SelectMany(message => message)], client.File);
            for (var i = 0; i < 3; i++)
            {
                using var reply = client.Receive();
                Assert.Equal(Errno.None, reply!.Error);
            }

            client.StartDma(WireDevice.ReadHere, Base, 4);
            Assert.Equal("mine"u8, _fixture.Device.Bar.AsSpan((int)WireDevice.DmaData, 4));
            client.Do(DMA_UNMAP, Unmap(Base, 0x1000)).Dispose();
        }

        Assert.Equal(1, _fixture.Log.Count(1106));
        Assert.Equal(0, _fixture.Server.BadMessages);
    }

    [Fact]
    public void Eventfds_are_bound_fired_and_taken_away()
    {
        using var client = Connect();
        using var other = new EventFd();
        client.Do(DEVICE_SET_IRQS, Irqs(0x24, 0, 0, 1), client.Signal.Descriptor).Dispose();
        _fixture.Device.Fire(0, 0);
        Assert.True(client.Signal.TryRead(out _));
        // Two vectors with a descriptor each; then a loop back by bool, by none, and away.
        client.Do(DEVICE_SET_IRQS, Irqs(0x24, 2, 3, 2), client.Signal.Descriptor, other.Descriptor).Dispose();
        client.Do(DEVICE_SET_IRQS, Irqs(0x22, 2, 3, 2, 0, 1)).Dispose();
        Assert.False(client.Signal.TryRead(out _));
        Assert.True(other.TryRead(out _));
        client.Do(DEVICE_SET_IRQS, Irqs(0x21, 2, 3, 1)).Dispose();
        Assert.True(client.Signal.TryRead(out _));
        client.Do(DEVICE_SET_IRQS, Irqs(0x24, 2, 3, 1)).Dispose();
        Assert.False(_fixture.Device.IsBound(2, 3));
        Assert.True(_fixture.Device.IsBound(2, 4));
        client.Do(DEVICE_SET_IRQS, Irqs(0x21, 2, 0, 0)).Dispose();
        Assert.False(_fixture.Device.IsBound(2, 4));
        client.Do(DEVICE_SET_IRQS, Irqs(0x11, 0, 0, 1)).Dispose();
        Assert.Equal("irqs 11 0 0 1 0", _fixture.Device.Calls[^1]);
    }

    [Fact]
    public void Doorbells_are_rung_by_eventfds()
    {
        using var client = Connect();
        using (var small = client.Do(DEVICE_GET_REGION_IO_FDS, Words(16, 0, 0, 0)))
        {
            Assert.Equal(Words(96, 0, 0, 2), small.Payload);
            Assert.Empty(small.Descriptors);
        }

        using var reply = client.Do(DEVICE_GET_REGION_IO_FDS, Words(96, 0, 0, 0));
        byte[] expected =
        [
            .. Words(96, 0, 0, 2),
            .. Longs(0x40, 4), .. Words(0, 0, 0, 0), .. Longs(0),
            .. Longs(0x44, 4), .. Words(1, 0, 1, 0), .. Longs(7),
        ];
        Assert.Equal(expected, reply.Payload);
        Assert.Equal(2, reply.Descriptors.Count);
        Assert.True(EventFd.TryAdopt(reply.Descriptors[1], out var signal, out _));
        signal!.Signal();
        Assert.Equal((0, 1), (_fixture.Device.SignalsOf(0x40), _fixture.Device.SignalsOf(0x44)));
        // Asked again, they are the same ones.
        using (var again = client.Do(DEVICE_GET_REGION_IO_FDS, Words(200, 0, 0, 0)))
        {
            Assert.True(EventFd.TryAdopt(again.Descriptors[1], out var same, out _));
            same!.Signal();
            Assert.Equal(1, _fixture.Device.SignalsOf(0x44));
        }

        using var none = client.Do(DEVICE_GET_REGION_IO_FDS, Words(96, 0, 7, 0));
        Assert.Equal(Words(16, 0, 7, 0), none.Payload);
    }

    [Fact]
    public void Doorbell_of_an_IO_region_says_that_it_is_one()
    {
        using var client = Connect();
        using var reply = client.Do(DEVICE_GET_REGION_IO_FDS, Words(96, 0, 4, 0));
        Assert.Equal([.. Words(56, 0, 4, 1), .. Longs(8, 2), .. Words(0, 0, 2, 0), .. Longs(0)], reply.Payload);
    }

    [Fact]
    public void Doorbells_beyond_the_clients_descriptors_are_left_out()
    {
        using var client = Connect("""{"capabilities":{"max_msg_fds":1}}""");
        using var reply = client.Do(DEVICE_GET_REGION_IO_FDS, Words(96, 0, 0, 0));
        Assert.Equal((56u, 1u, 1), (reply.Word(0), reply.Word(12), reply.Descriptors.Count));
    }

    [Fact]
    public void Reset_resets_the_device()
    {
        using var client = Connect();
        client.WriteRegister(0, 0x100, 5);
        client.Do(DEVICE_RESET, []).Dispose();
        Assert.Equal(0u, client.ReadRegister(0, 0x100));
        Assert.Contains("reset", _fixture.Device.Calls);
    }

    [Fact]
    public async Task User_who_bound_the_request_interrupt_hears_that_the_driver_wants_the_device_back()
    {
        Task gone;
        using (var client = Connect())
        {
            client.Do(DEVICE_SET_IRQS, Irqs(0x24, 4, 0, 1), client.Signal.Descriptor).Dispose();
            gone = _fixture.UnregisterAsync();
            WireFixture.Until(() => client.Signal.TryRead(out _), "the request");
            // Until it lets go, all goes on.
            Assert.Equal(0u, client.ReadRegister(0, 0));
            Assert.False(gone.IsCompleted);
        }

        await gone.WaitAsync(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken);
        using var late = new WireClient(_fixture.Socket);
        Assert.Equal(Errno.ENODEV, late.Fail(VERSION, Version(QemuText)));
    }

    [Fact]
    public void Revoked_device_closes_the_connection()
    {
        using var client = Connect();
        client.Do(DMA_MAP, Map(Base, 0x1000), client.File).Dispose();
        _fixture.VfioDevice.Revoke();
        client.ExpectClosed();
        _fixture.Log.WaitFor(1103, "the device was taken away");
        Assert.False(_fixture.Device.IsOpen);
    }

    [Theory]
    [InlineData(WireDevice.ReadHere)]
    [InlineData(WireDevice.WriteThere)]
    public void Client_that_shrinks_its_memory_loses_its_session_and_no_more(uint command)
    {
        Assert.SkipUnless(Mapping.IsGuardSupported, "no guard on this architecture: shrinking ends the process");
        var (descriptors, mappings) = (Kernel.DescriptorsBefore(), Kernel.Mappings);
        using (var client = Connect())
        using (var file = MemoryFile.Create("virtbus-test", 0x2000, sealedSize: false))
        {
            client.Do(DMA_MAP, Map(Base, 0x2000), file).Dispose();
            client.StartDma(WireDevice.ReadHere, Base, 0x2000);
            Assert.Equal(0, Libc.ftruncate(file, 0x1000));
            client.Do(REGION_WRITE, Access(0, WireDevice.DmaAddress, 8, Longs(Base))).Dispose();
            // The connection may be gone before the answer.
            client.Send(REGION_WRITE, Access(0, WireDevice.DmaCommand, 4, Words(command)));
            client.ExpectClosed();
        }

        _fixture.WaitIdle(1);
        Assert.Equal(1, _fixture.Log.Count(1112));
        _fixture.Log.WaitFor(1103, "its memory is gone");
        using (var next = Connect())
        {
            next.Do(DMA_MAP, Map(Base, 0x1000), next.File).Dispose();
            next.StartDma(WireDevice.ReadHere, Base, 4);
            Assert.Equal(Fault.None, _fixture.Device.LastDma);
        }

        _fixture.WaitIdle(2);
        Assert.Equal((descriptors, mappings), (Kernel.Descriptors, Kernel.Mappings));
    }

    [Fact]
    public async Task Stopping_drops_the_client_and_removes_the_socket()
    {
        using var client = Connect();
        await _fixture.Server.StopAsync().EndsAsync("the server's stop", () => _fixture.Log.Text);
        client.ExpectClosed();
        Assert.False(_fixture.Device.IsOpen);
        Assert.False(File.Exists(_fixture.Socket));
    }

    [Fact]
    public void Hundred_connections_one_after_the_other_leave_nothing()
    {
        using (var first = Connect())
            first.ReadRegister(0, 0);
        _fixture.WaitIdle(1);
        int descriptors = Kernel.DescriptorsBefore(), mappings = Kernel.Mappings;
        for (var i = 0; i < 100; i++)
        {
            using var client = Connect(i % 2 == 0 ? QemuText : """{"capabilities":{"twin_socket":{"supported":true}}}""");
            client.Do(DMA_MAP, Map(Base, 0x1000), client.File).Dispose();
            client.Do(DMA_MAP, Map(Base + 0x1000, 0x1000)).Dispose();
            client.Do(DEVICE_SET_IRQS, Irqs(0x24, 0, 0, 1), client.Signal.Descriptor).Dispose();
            client.Do(DEVICE_GET_REGION_IO_FDS, Words(96, 0, 0, 0)).Dispose();
        }

        _fixture.WaitIdle(101);
        Assert.Equal((descriptors, mappings), (Kernel.Descriptors, Kernel.Mappings));
    }
}
