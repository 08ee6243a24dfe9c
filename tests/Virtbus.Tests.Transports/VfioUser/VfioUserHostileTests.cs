using System.Buffers.Binary;
using System.Diagnostics;
using Microsoft.Win32.SafeHandles;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Transports.VfioUser;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>What a peer may try with descriptors, and what the host may refuse: that peer alone loses.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserHostileTests : IDisposable
{
    private const string TwinText = """{"capabilities":{"twin_socket":{"supported":true}}}""";
    private static readonly TimeSpan _soon = TimeSpan.FromSeconds(10);
    private readonly WireFixture _fixture = new(new VfioUserServerOptions { AnswerTimeout = TimeSpan.FromSeconds(15) });

    public void Dispose() => _fixture.Dispose();

    private (WireClient Client, UnixStream Twin) ConnectWithTwin()
    {
        var client = new WireClient(_fixture.Socket);
        var greeting = client.Do(VERSION, Version(TwinText));
        client.Do(DMA_MAP, Map(Base, 0x10000)).Dispose();
        client.Do(REGION_WRITE, Access(0, WireDevice.DmaAddress, 8, Longs(Base))).Dispose();
        client.WriteRegister(0, WireDevice.DmaLength, 0x1000);
        return (client, UnixStream.Adopt(Assert.Single(greeting.Descriptors)));
    }

    private static byte[] Take(UnixStream stream, int count)
    {
        var bytes = new byte[count];
        for (var have = 0; have < count;)
        {
            var got = stream.Receive(bytes.AsSpan(have), [], wait: true, out _);
            Assert.InRange(got, 1, count);
            have += got;
        }

        return bytes;
    }

    [Fact]
    public void Request_on_the_twin_socket_ends_it_and_its_descriptors_do_not_pile_up()
    {
        var (client, twin) = ConnectWithTwin();
        using (client)
        {
            var before = Kernel.DescriptorsBefore();
            client.Send(REGION_WRITE, Access(0, WireDevice.DmaCommand, 4, Words(WireDevice.ReadThere)));
            Take(twin, 32);
            var many = Enumerable.Repeat(client.Signal.Descriptor, UnixStream.MaxDescriptors).ToArray();
            var sent = 0;
            while (sent < 1000 && twin.Send(Message(DMA_MAP, Map(Base, 0x1000)), many, wait: true, out _) > 0)
            {
                Assert.InRange(Kernel.Descriptors, 0, before + (2 * UnixStream.MaxDescriptors));
                sent++;
            }

            Assert.NotEqual(1000, sent);
            WireFixture.Until(() => _fixture.Device.LastDma.Errno == Errno.EPROTO, "the device's fault");
        }

        twin.Dispose();
    }

    [Fact]
    public void Twin_socket_carries_more_than_a_peer_may_leave_waiting()
    {
        var (client, twin) = ConnectWithTwin();
        using (client)
        {
            // 1,500 replies of 4 KiB are more than 5 MiB, which is what may wait.
            for (var i = 0; i < 1500; i++)
            {
                client.Send(REGION_WRITE, Access(0, WireDevice.DmaCommand, 4, Words(WireDevice.ReadThere)), 0x10);
                var request = Take(twin, 32);
                var reply = Message(DMA_READ, [.. Longs(Base, 0x1000), .. new byte[0x1000]], 1, BinaryPrimitives.ReadUInt16LittleEndian(request));
                Assert.Equal(reply.Length, twin.Send(reply, [], wait: true, out _));
            }

            WireFixture.Until(() => client.ReadRegister(0, WireDevice.DmaDone) > 0, "the copies");
            Assert.Equal(Fault.None, _fixture.Device.LastDma);
        }

        twin.Dispose();
    }

    [Fact]
    public void Doorbells_of_one_descriptor_share_it()
    {
        const int Count = 500;
        var reply = new byte[16 + (Count * 40)];
        BinaryPrimitives.WriteUInt32LittleEndian(reply, (uint)reply.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(reply.AsSpan(12), Count);
        for (var i = 0; i < Count; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(reply.AsSpan(16 + (i * 40)), (ulong)i * 4);
            BinaryPrimitives.WriteUInt64LittleEndian(reply.AsSpan(24 + (i * 40)), 4);
        }

        using var signal = new EventFd();
        var before = Kernel.DescriptorsBefore();
        var list = VfioUserDoorbellReader.Read(reply, [signal.Descriptor]);
        Assert.Equal(Count, list.Count);
        Assert.Equal(before + 1, Kernel.Descriptors);
        list.ForEach(doorbell => doorbell.Signal.Dispose());
        Assert.Equal(before, Kernel.Descriptors);
    }

    [Fact]
    public async Task Clients_eventfd_keeps_its_flags_and_a_read_that_waits_on_it_returns()
    {
        using var client = new WireClient(_fixture.Socket);
        client.Greet();
        using var blocking = new FileDescriptor(Libc.eventfd(0, Libc.EFD_CLOEXEC));
        client.Do(DEVICE_SET_IRQS, Irqs(0x24, 0, 0, 1), blocking).Dispose();
        Assert.Equal(0, Libc.fcntl(blocking, Libc.F_GETFL, 0) & Libc.O_NONBLOCK);
        var reader = Task.Factory.StartNew(
            () =>
            {
                using var handle = new SafeFileHandle(blocking.Number, ownsHandle: false);
                var value = new byte[8];
                return (RandomAccess.Read(handle, value, 0), value[0]);
            },
            TestContext.Current.CancellationToken,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default);
        _fixture.Device.Fire(0, 0);
        Assert.Equal((8, 1), await reader.WaitAsync(_soon, TestContext.Current.CancellationToken));
        Assert.Equal(0, Libc.fcntl(blocking, Libc.F_GETFL, 0) & Libc.O_NONBLOCK);
    }

    [Fact]
    public async Task Socket_that_a_server_passed_keeps_its_flags_and_is_waited_on_all_the_same()
    {
        var (ours, theirs) = UnixStream.CreatePair();
        var adopted = UnixStream.Adopt(theirs.Descriptor.Duplicate());
        Assert.False(adopted.TryMakeBlocking());
        var reader = Task.Factory.StartNew(
            () => adopted.Receive(new byte[4], [], wait: true, out _), TestContext.Current.CancellationToken, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        Assert.Equal(2, ours.Send("hi"u8, [], out _));
        Assert.Equal(2, await reader.WaitAsync(_soon, TestContext.Current.CancellationToken));
        Assert.NotEqual(0, Libc.fcntl(theirs.Descriptor, Libc.F_GETFL, 0) & Libc.O_NONBLOCK);
        adopted.Dispose();
        // What is the peer's too is not shut down with it.
        Assert.Equal(2, theirs.Send("ho"u8, [], out _));
        theirs.Dispose();
        ours.Dispose();
    }

    [Fact]
    public async Task Memory_whose_close_waits_holds_neither_the_device_nor_its_next_user()
    {
        using var lingering = new Lingering();
        using (var client = new WireClient(_fixture.Socket))
        {
            client.Greet();
            // In two pieces, so that the server holds it still when it is closed here.
            var message = Message(DMA_MAP, Map(Base, 0x1000), 0, 77);
            client.SendRaw(message.AsSpan(0, 1), lingering.Descriptor);
            lingering.Forget();
            client.SendRaw(message.AsSpan(1));
            using var reply = client.ReceiveReply(77);
            Assert.NotEqual(Errno.None, reply!.Error);
        }

        _fixture.WaitIdle(1);
        Assert.Equal(1, PeerDescriptors.TotalClosing);
        var start = Stopwatch.GetTimestamp();
        using (var next = new WireClient(_fixture.Socket))
        {
            next.Greet();
            next.ReadRegister(0, 0);
            await _fixture.Server.StopAsync().WaitAsync(_soon, TestContext.Current.CancellationToken);
        }

        Assert.InRange(Stopwatch.GetElapsedTime(start), TimeSpan.Zero, _soon);
        Assert.Equal(1, PeerDescriptors.TotalClosing);
    }

    [Fact]
    public void Client_for_whom_there_is_no_thread_is_let_go_of_and_the_next_is_served()
    {
        ServiceThread.Refuses = name => name == "vfio-user";
        try
        {
            using var client = new WireClient(_fixture.Socket);
            client.ExpectClosed();
            _fixture.Log.WaitFor(1108, "EAGAIN");
        }
        finally
        {
            ServiceThread.Refuses = null;
        }

        using var next = new WireClient(_fixture.Socket);
        next.Greet();
        next.ReadRegister(0, 0);
    }

    [Fact]
    public void Clients_that_come_and_go_fill_no_log()
    {
        for (var i = 1; i <= 100; i++)
        {
            using (var client = new WireClient(_fixture.Socket))
                client.Greet();
            _fixture.WaitIdle(i);
        }

        Assert.InRange(_fixture.Log.Count(1102) + _fixture.Log.Count(1103), 2, 40);
        // Those of the subsystem (opened, closed) have the same ids as two of the server's own.
        Assert.InRange(_fixture.Log.Count(1100) + _fixture.Log.Count(1101), 2, 41);
    }

    [Fact]
    public void Lines_that_were_left_out_are_counted_and_told_of_with_the_next_one()
    {
        var time = new ManualTime();
        using var fixture = new WireFixture(time: time);
        for (var i = 1; i <= 31; i++)
        {
            if (i == 31)
            {
                Assert.Equal((0, 0), (fixture.Log.Count(1113), fixture.Log.Count(1106)));
                time.Advance(TimeSpan.FromSeconds(11));
            }

            using (var client = new WireClient(fixture.Socket))
                client.Greet();
            fixture.WaitIdle(i);
        }

        // Those of the server, and those of the subsystem.
        Assert.Equal((1, 1), (fixture.Log.Count(1113), fixture.Log.Count(1106)));
        Assert.Equal(2, fixture.Log.Text.Split('\n').Count(line => line.Contains(": 40 lines left out before this", StringComparison.Ordinal)));
    }
}
