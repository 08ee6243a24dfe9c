using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Transports.Nbd;

namespace Virtbus.Tests.Transports.Nbd;

[Collection(WireCollection.Name)]
public class NbdHostileTests
{
    [Fact]
    public void Handshake_that_does_not_end_is_ended()
    {
        var time = new ManualTime();
        using var fixture = new NbdFixture(time: time);
        using var silent = NbdClient.Connect(fixture.Server);
        using var talker = NbdClient.Connect(fixture.Server);
        talker.Greet();
        Assert.Equal((uint)NbdOptionReply.ACK, talker.Ask(NbdOption.STRUCTURED_REPLY).Reply);
        using var open = NbdClient.Open(fixture.Server);
        Assert.Equal(512, open.ReadAt(0, 512).Length);
        Deadline.Until(() => time.Timers == 2, "the deadlines of those in the handshake");
        time.Advance(TimeSpan.FromSeconds(9.9));
        Assert.Equal((uint)NbdOptionReply.ACK, talker.Ask(NbdOption.STRUCTURED_REPLY).Reply);
        time.Advance(TimeSpan.FromSeconds(0.2));
        silent.ExpectClosed();
        talker.ExpectClosed();
        fixture.Log.WaitFor(1203, "did not end the handshake in time");
        // Who is through has all the time.
        time.Advance(TimeSpan.FromHours(1));
        Assert.Equal(512, open.ReadAt(0, 512).Length);
    }

    [Fact]
    public void Connection_beyond_the_bound_waits_until_another_one_goes()
    {
        using var fixture = new NbdFixture(options: new NbdServerOptions { Connections = 2 });
        var first = NbdClient.Open(fixture.Server);
        using var second = NbdClient.Open(fixture.Server);
        using var third = NbdClient.Connect(fixture.Server);
        Assert.Equal(512, second.ReadAt(0, 512).Length);
        Assert.Equal(2, fixture.Server.Clients);
        Assert.Equal(-1, third.Stream.Receive(new byte[1], [], out var error));
        Assert.Equal(Errno.EAGAIN, error);
        first.Dispose();
        third.Greet();
        Assert.Equal(1 << 20, third.Go().Size);
    }

    [Fact]
    public void Connections_of_all_servers_together_are_bounded()
    {
        var options = new NbdServerOptions { Connections = 50 };
        using var one = new NbdFixture(options: options);
        using var other = new NbdFixture(options: options);
        List<NbdClient> clients = [];
        try
        {
            for (var i = 0; i < 32; i++)
            {
                clients.Add(NbdClient.Open(one.Server));
                clients.Add(NbdClient.Open(other.Server));
            }

            using (var late = NbdClient.Connect(one.Server))
                Assert.Null(late.Read(1));
            Assert.Equal(32, one.Server.Clients);
            clients[0].Dispose();
            one.WaitFor(31);
            using var next = NbdClient.Open(other.Server);
            Assert.Equal(512, next.ReadAt(0, 512).Length);
        }
        finally
        {
            clients.ForEach(static c => c.Dispose());
        }
    }

    [Theory]
    [InlineData(4u)]
    [InlineData(0x80000003)]
    public void Flags_that_are_not_known_end_the_connection(uint flags)
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Connect(fixture.Server);
        client.Greet(flags);
        Assert.Null(client.Read(1));
        Assert.Equal(1, fixture.Server.BadMessages);
    }

    [Fact]
    public void What_is_no_option_or_too_long_for_one_ends_the_connection()
    {
        using var fixture = new NbdFixture();
        foreach (var bytes in new byte[][] { new byte[16], NbdClient.Option(7, [], length: 0xffffffff), NbdClient.Option(99, [], length: (64 << 10) + 1) })
        {
            using var client = NbdClient.Connect(fixture.Server);
            client.Greet();
            client.Send(bytes);
            Assert.Null(client.Read(1));
        }

        Assert.Equal(3, fixture.Server.BadMessages);
        using var longest = NbdClient.Connect(fixture.Server);
        longest.Greet();
        Assert.Equal((uint)NbdOptionReply.ERR_UNSUP, longest.Ask((NbdOption)99, new byte[64 << 10]).Reply);
    }

    [Fact]
    public void What_is_no_request_or_a_write_that_is_too_long_ends_the_connection_and_no_other_one()
    {
        using var fixture = new NbdFixture();
        using var other = NbdClient.Open(fixture.Server);
        foreach (var bytes in new[] { new byte[28], NbdClient.Request(NbdCommand.WRITE, 0, (32 << 20) + 512), NbdClient.Request(NbdCommand.WRITE, 0, 0xffffffff) })
        {
            using var client = NbdClient.Open(fixture.Server);
            client.Send(bytes);
            Assert.Null(client.Read(1));
        }

        Assert.Equal(3, fixture.Export.BadMessages);
        Assert.Equal(512, other.ReadAt(0, 512).Length);
    }

    [Fact]
    public void Descriptors_that_are_sent_along_are_closed_and_end_the_connection()
    {
        using var fixture = new NbdFixture();
        using (var client = NbdClient.Open(fixture.Server))
        {
            var before = Kernel.DescriptorsBefore();
            using (var sent = new EventFd())
                client.Stream.Send(NbdClient.Request(NbdCommand.READ, 0, 512), [sent.Descriptor, sent.Descriptor], out _);
            Assert.Null(client.Read(1));
            fixture.WaitIdle();
            // Of the connection one of the two ends.
            Deadline.Until(() => Kernel.Descriptors == before - 1, "the descriptors to be closed");
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(27)]
    [InlineData(28 + 100)]
    public void Message_that_is_cut_short_leaves_nothing(int length)
    {
        using var fixture = new NbdFixture();
        using (var client = NbdClient.Open(fixture.Server))
            client.Send(NbdClient.Request(NbdCommand.WRITE, 0, 32 << 20, payload: new byte[100]).AsSpan(0, length));
        fixture.WaitIdle();
        Assert.Equal(0, NbdBuffers.Shared);
        using var next = NbdClient.Open(fixture.Server);
        Assert.Equal(new byte[512], next.ReadAt(0, 512));
    }

    [Fact]
    public void Client_that_reads_nothing_holds_no_more_than_its_share_and_others_go_on()
    {
        using var fixture = new NbdFixture(new MemoryBackend(64 << 20));
        using (var greedy = NbdClient.Open(fixture.Server))
        {
            for (var i = 0; i < 100; i++)
                greedy.Stream.Send(NbdClient.Request(NbdCommand.READ, 0, 32 << 20), [], out _);
            Deadline.Until(() => NbdBuffers.Shared >= NbdBuffers.Most - NbdBuffers.Reserve, "as much as it may have");
            using var other = NbdClient.Open(fixture.Server);
            Assert.Equal(32 << 20, other.ReadAt(0, 32 << 20).Length);
            Assert.InRange(NbdBuffers.Shared, 0, 2 * NbdBuffers.Most);
            // Now it reads, and gets all of it.
            for (var i = 0; i < 5; i++)
                Assert.Equal(32 << 20, greedy.ReadAnswer().Data.Length);
        }

        fixture.WaitIdle();
        Assert.Equal(0, NbdBuffers.Shared);
    }

    [Fact]
    public void Clients_that_hold_all_of_the_shared_memory_keep_nobody_from_what_is_his()
    {
        using var fixture = new NbdFixture(new MemoryBackend(64 << 20));
        List<NbdClient> greedy = [];
        try
        {
            for (var i = 0; i < 6; i++)
            {
                var client = NbdClient.Open(fixture.Server);
                greedy.Add(client);
                client.Stream.Send(NbdClient.Request(NbdCommand.READ, 0, 32 << 20), [], out _);
                client.Stream.Send(NbdClient.Request(NbdCommand.READ, 0, 32 << 20), [], out _);
            }

            Deadline.Until(() => NbdBuffers.Shared > NbdBuffers.SharedMost - (32 << 20), "the shared memory to be used up");
            using var other = NbdClient.Open(fixture.Server);
            Assert.Equal(8 << 20, other.ReadAt(0, 8 << 20).Length);
            Assert.Equal(NbdError.ENOMEM, other.Do(NbdCommand.READ, 0, 32 << 20).Error);
            // The payload of a write that finds no room is passed over.
            Assert.Equal(NbdError.ENOMEM, other.Do(NbdCommand.WRITE, 0, 32 << 20, payload: new byte[32 << 20]).Error);
            Assert.Equal(512, other.ReadAt(0, 512).Length);
            Assert.InRange(NbdBuffers.Shared, 0, NbdBuffers.SharedMost);
        }
        finally
        {
            greedy.ForEach(static c => c.Dispose());
        }

        fixture.WaitIdle();
        Assert.Equal(0, NbdBuffers.Shared);
        using var next = NbdClient.Open(fixture.Server);
        Assert.Equal(32 << 20, next.ReadAt(0, 32 << 20).Length);
    }

    [Fact]
    public void Disk_that_leaves_buffers_as_they_were_shows_nobody_elses_bytes()
    {
        using var fixture = new NbdFixture(new NullBackend(1 << 20));
        using (var first = NbdClient.Open(fixture.Server))
            first.WriteAt(0, [.. Enumerable.Repeat((byte)0xee, 65536)]);
        fixture.WaitIdle();
        using var second = NbdClient.Open(fixture.Server);
        Assert.Equal(new byte[65536], second.ReadAt(0, 65536));
    }

    [Fact]
    public void Removal_of_an_export_ends_its_clients_and_waits_until_they_have_left_the_disk()
    {
        using var fixture = new NbdFixture();
        var second = new NbdExport("second", new MemoryBackend(4096));
        fixture.Server.Add(second);
        using var client = NbdClient.Open(fixture.Server, name: "second");
        using var other = NbdClient.Open(fixture.Server, name: "disk");
        // In the middle of a request.
        client.Send(NbdClient.Request(NbdCommand.WRITE, 0, 4096, payload: new byte[10]));
        Assert.Equal(1, second.Clients);
        fixture.Server.RemoveAsync(second).Ends("the removal");
        Assert.Equal(0, second.Clients);
        client.ExpectClosed();
        Assert.Equal(512, other.ReadAt(0, 512).Length);
        second.Backend.Dispose();
    }

    [Fact]
    public void Client_that_is_sent_away_may_come_again()
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Open(fixture.Server);
        Assert.True(fixture.Export.IsConnected);
        fixture.Export.Disconnect();
        client.ExpectClosed();
        fixture.Export.Left.Ends("the client's going");
        using var again = NbdClient.Open(fixture.Server);
        Assert.Equal(512, again.ReadAt(0, 512).Length);
        Assert.Equal(2, fixture.Export.Connections);
    }
}
