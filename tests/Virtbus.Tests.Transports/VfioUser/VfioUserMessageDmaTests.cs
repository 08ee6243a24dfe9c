using Virtbus.Platform;
using Virtbus.Transports.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>DMA to memory that has no descriptor: the server asks for it by messages, on the socket on which it is asked things itself.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserMessageDmaTests : IDisposable
{
    private readonly WireFixture _fixture = new(new VfioUserServerOptions { AnswerTimeout = TimeSpan.FromSeconds(15) });
    private readonly byte[] _memory = new byte[1 << 21];

    public VfioUserMessageDmaTests() => new Random(7).NextBytes(_memory);

    public void Dispose() => _fixture.Dispose();

    private WireClient Connect(string text = QemuText)
    {
        var client = new WireClient(_fixture.Socket);
        client.Greet(text);
        client.Do(DMA_MAP, Map(Base, (ulong)_memory.Length)).Dispose();
        client.OnRequest = Serve;
        return client;
    }

    private byte[] Serve(WireReply request)
    {
        var at = (int)(request.Long(0) - Base);
        var count = (int)request.Long(8);
        if (request.Command == DMA_READ)
            return [.. request.Payload, .. _memory.AsSpan(at, count)];
        Assert.Equal(DMA_WRITE, request.Command);
        request.Payload.AsSpan(16).CopyTo(_memory.AsSpan(at, count));
        return request.Payload[..16];
    }

    private static void Program(WireClient client, ulong address, uint length)
    {
        client.Do(REGION_WRITE, Access(0, WireDevice.DmaAddress, 8, Longs(address))).Dispose();
        client.WriteRegister(0, WireDevice.DmaLength, length);
    }

    private static uint WaitDone(WireClient client)
    {
        uint done;
        while ((done = client.ReadRegister(0, WireDevice.DmaDone)) == 0)
        {
        }

        return done;
    }

    [Theory]
    [InlineData(WireDevice.ReadHere)]
    [InlineData(WireDevice.ReadThere)]
    [InlineData(WireDevice.ReadThereAndWait)]
    public void Write_is_answered_before_the_device_asks_for_memory(uint command)
    {
        // QEMU's processor waits for the answer and holds the lock that its main loop needs to give memory out.
        using var client = Connect();
        Program(client, Base + 0x100, 1000);
        var id = client.Send(REGION_WRITE, Access(0, WireDevice.DmaCommand, 4, Words(command)));
        using (var first = client.Receive())
            Assert.Equal((id, true), (first!.Id, first.IsReply));
        using (var request = client.Receive())
        {
            Assert.Equal((DMA_READ, 0u), (request!.Command, request.Flags));
            Assert.Equal(Longs(Base + 0x100, 1000), request.Payload);
            client.Answer(request);
        }

        Assert.Equal(1u, WaitDone(client));
        Assert.Equal(_memory[0x100..0x4e8], _fixture.Device.Bar[(int)WireDevice.DmaData..][..1000]);
    }

    [Fact]
    public void Client_that_shares_no_memory_is_told_how_to_start_and_one_that_shares_most_is_not()
    {
        using (var client = new WireClient(_fixture.Socket))
        {
            client.Greet(QemuText);
            // As QEMU has it: its firmware is shared by nobody.
            client.Do(DMA_MAP, Map(Base, 0x40000), client.File).Dispose();
            client.Do(DMA_MAP, Map(Base + 0x40000, 0x20000, flags: 1)).Dispose();
            Assert.Null(_fixture.Server.Hint);
            var connection = _fixture.Server.Connection!;
            Assert.Equal((Environment.ProcessId, 3L, 0L, 2), (connection.Process, connection.Messages, connection.BadMessages, connection.Maps));
            client.Do(DMA_UNMAP, Unmap(Base, 0x40000)).Dispose();
            Assert.Equal(1, _fixture.Server.Connection!.Maps);
        }
        _fixture.WaitIdle(1);
        using var alone = Connect();
        Assert.Contains("-object memory-backend-memfd,id=mem,size=SIZE,share=on", _fixture.Server.Hint, StringComparison.Ordinal);
        alone.Do(DMA_MAP, Map(Base + 0x1000000, 0x1000)).Dispose();
        Assert.Equal(1, _fixture.Log.Count(1111));
    }

    [Fact]
    public void Device_writes_memory_by_messages()
    {
        using var client = Connect();
        client.Do(REGION_WRITE, Access(0, WireDevice.DmaData, 5, "hello"u8.ToArray())).Dispose();
        Program(client, Base + 0x1003, 5);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.WriteThere);
        Assert.Equal(1u, WaitDone(client));
        Assert.Equal("hello"u8, _memory.AsSpan(0x1003, 5));
    }

    [Fact]
    public void Requests_of_the_client_are_taken_in_while_its_answer_is_waited_for_and_keep_their_order()
    {
        using var client = Connect();
        Program(client, Base, 64);
        var id = client.Send(REGION_WRITE, Access(0, WireDevice.DmaCommand, 4, Words(WireDevice.ReadHere)));
        using (client.ReceiveReply(id))
        {
        }

        using var request = client.Receive();
        Assert.Equal(DMA_READ, request!.Command);
        // The server's thread waits for this very answer. What is asked meanwhile comes before it.
        var ids = new List<ushort>();
        for (var i = 0u; i < 300; i++)
        {
            ids.Add(client.Send(REGION_WRITE, Access(0, 0x100, 4, Words(i))));
            ids.Add(client.Send(REGION_READ, Access(0, 0x100, 4)));
            ids.Add(client.Send(DMA_MAP, Map(Base - 0x100000, 0x1000), 0, client.File));
            ids.Add(client.Send(DMA_UNMAP, Unmap(Base - 0x100000, 0x1000)));
        }

        client.Answer(request);
        for (var i = 0; i < ids.Count; i++)
        {
            using var reply = client.ReceiveReply(ids[i]);
            Assert.True(reply is not null, _fixture.Log.Text);
            Assert.Equal(Errno.None, reply.Error);
            if (i % 4 == 1)
                Assert.Equal((uint)(i / 4), reply.Word(16));
        }

        Assert.Equal(1u, client.ReadRegister(0, WireDevice.DmaDone));
    }

    [Fact]
    public void Server_answers_while_its_engine_waits_for_memory()
    {
        using var client = Connect();
        Program(client, Base, 64);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
        WireReply? request = null;
        var id = client.Send(REGION_READ, Access(0, 0x100, 4));
        // The request for memory and the answer come in either order; the answer does not wait for the request's.
        for (var i = 0; i < 2; i++)
        {
            var message = client.Receive();
            if (message!.IsReply)
                Assert.Equal(id, message.Id);
            else
                request = message;
        }

        Assert.Equal(0u, client.ReadRegister(0, WireDevice.DmaDone));
        client.Answer(request!);
        Assert.Equal(1u, WaitDone(client));
    }

    [Fact]
    public void Transfer_larger_than_the_client_takes_goes_in_pieces()
    {
        using var client = Connect("""{"capabilities":{"max_data_xfer_size":4096}}""");
        var sizes = new List<ulong>();
        client.OnRequest = request =>
        {
            sizes.Add(request.Long(8));
            return Serve(request);
        };
        Program(client, Base + 8, 10_000);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
        Assert.Equal(1u, WaitDone(client));
        Assert.Equal([4096, 4096, 1808], sizes);
        Assert.Equal(_memory[8..10_008], _fixture.Device.Bar[(int)WireDevice.DmaData..][..10_000]);
        Program(client, Base + 0x100000, 10_000);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.WriteThere);
        WireFixture.Until(() => client.ReadRegister(0, WireDevice.DmaDone) == 2, "the second transfer");
        Assert.Equal(_memory[8..10_008], _memory[0x100000..0x102710]);
    }

    [Fact]
    public void Megabyte_goes_in_one_message()
    {
        using var client = Connect();
        Program(client, Base, 1 << 20);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
        Assert.Equal(1u, WaitDone(client));
        Assert.Equal(_memory[..(1 << 20)], _fixture.Device.Bar[(int)WireDevice.DmaData..][..(1 << 20)]);
    }

    [Fact]
    public void What_the_client_refuses_is_a_fault_of_the_device()
    {
        using var client = Connect();
        client.OnRequest = _ => null;
        Program(client, Base, 64);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
        Assert.Equal(0x10000u, WaitDone(client));
        Assert.Equal(Errno.EIO, _fixture.Device.LastDma.Errno);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(16)]
    [InlineData(79)]
    public void Answer_that_is_too_short_is_a_fault_of_the_device(int length)
    {
        using var client = Connect();
        client.OnRequest = request => Serve(request)[..length];
        Program(client, Base, 64);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
        Assert.Equal(0x10000u, WaitDone(client));
        Assert.Equal(Errno.EPROTO, _fixture.Device.LastDma.Errno);
    }

    [Fact]
    public void Answer_with_another_command_closes_the_connection()
    {
        using var client = Connect();
        Program(client, Base, 64);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
        using (var request = client.Receive())
            client.SendRaw(Message(DMA_WRITE, new byte[80], 1, request!.Id));
        client.ExpectClosed();
        _fixture.Log.WaitFor(1104, "another command than its request");
    }

    [Fact]
    public void Client_that_does_not_answer_fails_the_access_and_its_late_answer_is_passed_over()
    {
        using var fixture = new WireFixture(new VfioUserServerOptions { AnswerTimeout = TimeSpan.FromMilliseconds(50) });
        using var client = new WireClient(fixture.Socket);
        client.Greet();
        client.Do(DMA_MAP, Map(Base, (ulong)_memory.Length)).Dispose();
        Program(client, Base, 64);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadHere);
        using var request = client.Receive();
        Assert.Equal(0x10000u, WaitDone(client));
        Assert.Equal(Errno.ETIMEDOUT, fixture.Device.LastDma.Errno);
        client.OnRequest = Serve;
        client.Answer(request!);
        Assert.Equal(0x10000u, client.ReadRegister(0, WireDevice.DmaDone));
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadHere);
        WireFixture.Until(() => client.ReadRegister(0, WireDevice.DmaDone) == 0x10001, "the second transfer");
    }

    [Fact]
    public void Unmap_gives_up_what_waits_for_the_memory()
    {
        using var client = Connect();
        Program(client, Base, 64);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
        using var request = client.Receive();
        Assert.Equal(DMA_READ, request!.Command);
        // QEMU does not answer it as long as it waits for the unmap.
        client.Do(DMA_UNMAP, Unmap(Base, (ulong)_memory.Length)).Dispose();
        Assert.Equal(0x10000u, WaitDone(client));
        Assert.Equal(Errno.EAGAIN, _fixture.Device.LastDma.Errno);
        client.Answer(request);
        client.ReadRegister(0, 0);
    }

    [Fact]
    public void Unmap_that_is_refused_gives_up_nothing()
    {
        using var client = Connect();
        Program(client, Base, 64);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
        using var request = client.Receive();
        Assert.Equal(DMA_READ, request!.Command);
        // It would split what is mapped.
        Assert.Equal(Errno.EINVAL, client.Fail(DMA_UNMAP, Unmap(Base, 0x1000)));
        client.Answer(request);
        Assert.Equal(1u, WaitDone(client));
        Assert.Equal(_memory[..64], _fixture.Device.Bar[(int)WireDevice.DmaData..][..64]);
    }

    [Fact]
    public void Client_that_goes_frees_the_device_that_waits_for_it()
    {
        using (var client = Connect())
        {
            Program(client, Base, 64);
            client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
            using var request = client.Receive();
        }

        _fixture.WaitIdle(1);
        Assert.Equal(Errno.ECONNRESET, _fixture.Device.LastDma.Errno);
        using var next = Connect();
        Assert.Equal(0u, next.ReadRegister(0, WireDevice.DmaDone));
    }

    [Fact]
    public void Twin_socket_carries_the_servers_requests()
    {
        using var client = new WireClient(_fixture.Socket);
        using var greeting = client.Do(VERSION, Version("""{"capabilities":{"twin_socket":{"supported":true}}}"""));
        var text = System.Text.Encoding.UTF8.GetString(greeting.Payload[4..^1]);
        Assert.Contains("""
            "twin_socket":{"supported":true,"fd_index":0}
            """.Trim(), text, StringComparison.Ordinal);
        using var twin = UnixStream.Adopt(Assert.Single(greeting.Descriptors));
        client.Do(DMA_MAP, Map(Base, (ulong)_memory.Length)).Dispose();
        Program(client, Base + 4, 64);
        // Nothing but the answer comes on the first socket, also when the device asks on the thread that serves it.
        var id = client.Send(REGION_WRITE, Access(0, WireDevice.DmaCommand, 4, Words(WireDevice.ReadHere)));
        client.ReceiveReply(id)!.Dispose();
        var buffer = new byte[32];
        List<FileDescriptor> none = [];
        Assert.Equal(32, twin.Receive(buffer, none, wait: true, out _));
        Assert.Equal(Longs(Base + 4, 64), buffer[16..]);
        var reply = Message(DMA_READ, [.. Longs(Base + 4, 64), .. _memory[4..68]], 1, BitConverter.ToUInt16(buffer));
        Assert.Equal(reply.Length, twin.Send(reply, [], out _));
        Assert.Equal(1u, WaitDone(client));
        Assert.Equal(_memory[4..68], _fixture.Device.Bar[(int)WireDevice.DmaData..][..64]);
    }

    [Fact]
    public void Mapped_and_served_memory_lie_side_by_side()
    {
        using var client = Connect();
        client.Do(DMA_MAP, Map(Base - 0x1000, 0x1000), client.File).Dispose();
        client.Memory.Write(0xffe, "ab"u8);
        Program(client, Base - 2, 4);
        client.WriteRegister(0, WireDevice.DmaCommand, WireDevice.ReadThere);
        Assert.Equal(1u, WaitDone(client));
        Assert.Equal([(byte)'a', (byte)'b', _memory[0], _memory[1]], _fixture.Device.Bar[(int)WireDevice.DmaData..][..4]);
    }

    [Fact]
    public void Engine_and_registers_go_on_at_once_for_long()
    {
        using var client = Connect();
        Program(client, Base, 512);
        var random = new Random(3);
        var copies = 0u;
        for (var i = 0; i < 2000; i++)
        {
            if (random.Next(4) == 0)
            {
                copies++;
                client.WriteRegister(0, WireDevice.DmaCommand, (uint)random.Next(1, 6));
            }

            client.WriteRegister(0, 0x200, (uint)i);
            Assert.Equal((uint)i, client.ReadRegister(0, 0x200));
        }

        WireFixture.Until(() => client.ReadRegister(0, WireDevice.DmaDone) == copies, "all copies");
    }
}
