using System.Net.Sockets;
using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Transports.Nbd;
using static Virtbus.Transports.Nbd.NbdProtocol;

namespace Virtbus.Tests.Transports.Nbd;

/// <summary>More requests than are taken at once, clients that go in the middle, and disks that become another one in the middle.</summary>
[Collection(WireCollection.Name)]
public class NbdPipelineTests
{
    [Theory]
    [InlineData(64, false)]
    [InlineData(65, false)]
    [InlineData(200, false)]
    [InlineData(2000, false)]
    [InlineData(200, true)]
    public void More_requests_than_are_taken_at_once_are_all_answered_though_nothing_follows(int count, bool reorders)
    {
        using var memory = new MemoryBackend(1 << 20);
        using var fixture = new NbdFixture(reorders ? new FaultyBackend(memory, new FaultPlan { Seed = 7, Delay = 0.5, LongestDelay = 20, Reorder = true }) : new MemoryBackend(1 << 20));
        using var client = NbdClient.Open(fixture.Server);
        Assert.True(client.Send(Requests(count, NbdCommand.READ)));
        Assert.Equal(count, Cookies(client, count).Distinct().Count());
    }

    [Theory]
    [InlineData(65, true)]
    [InlineData(200, true)]
    [InlineData(65, false)]
    [InlineData(200, false)]
    public void All_that_was_sent_before_the_client_ended_its_side_is_answered(int count, bool disconnects)
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Open(fixture.Server);
        Assert.True(client.Send([.. Requests(count, NbdCommand.WRITE), .. disconnects ? NbdClient.Request(NbdCommand.DISC, 0, 0) : []]));
        EndSide(client);
        Assert.Equal(count, Cookies(client, count).Distinct().Count());
        Assert.Null(client.Read(1));
        fixture.WaitIdle();
        ExpectWritten(fixture, count);
    }

    [Theory]
    [InlineData(65)]
    [InlineData(200)]
    public void All_that_was_sent_before_a_disconnect_is_done_though_the_client_takes_no_reply(int count)
    {
        using var fixture = new NbdFixture();
        using (var client = NbdClient.Open(fixture.Server))
            Assert.True(client.Send([.. Requests(count, NbdCommand.WRITE), .. NbdClient.Request(NbdCommand.DISC, 0, 0)]));
        fixture.WaitIdle();
        ExpectWritten(fixture, count);
    }

    [Theory]
    [InlineData(4096, 512L, 0)]
    [InlineData(4096, 0L, 0)]
    [InlineData(4096, 6000L, 4096)]
    [InlineData(512, 1L, 512)]
    public void Zeros_are_there_whatever_the_disk_makes_at_once(int blockSize, long mostZeroes, int mostTransfer)
    {
        var pieces = new PiecesBackend();
        pieces.Info = pieces.Info with { BlockSize = blockSize, MaxWriteZeroes = mostZeroes, MaxTransfer = mostTransfer };
        using var fixture = new NbdFixture(pieces);
        using var client = NbdClient.Open(fixture.Server);
        client.WriteAt(0, [.. Enumerable.Repeat((byte)0xaa, 16384)]);
        Assert.Equal(NbdError.None, client.Do(NbdCommand.WRITE_ZEROES, 0, 8192).Error);
        Assert.Equal(new byte[8192], client.ReadAt(0, 8192));
        Assert.Equal(0xaa, client.ReadAt(8192, 4096)[0]);
    }

    [Fact]
    public void Fast_zeros_are_offered_where_the_disk_makes_any_and_refused_when_it_does_no_more()
    {
        var pieces = new PiecesBackend();
        var info = pieces.Info;
        pieces.Info = info with { BlockSize = 4096, HasFastZeroes = true, MaxWriteZeroes = 512, MaxDiscard = 512 };
        using var fixture = new NbdFixture(pieces);
        Assert.Equal(0, Flags() & (NBD_FLAG_SEND_FAST_ZERO | NBD_FLAG_SEND_TRIM));
        pieces.Info = info with { HasFastZeroes = true, MaxWriteZeroes = 4096 };
        Assert.NotEqual(0, Flags() & NBD_FLAG_SEND_FAST_ZERO);
        using var client = NbdClient.Open(fixture.Server);
        Assert.Equal(NbdError.None, client.Do(NbdCommand.WRITE_ZEROES, 0, 8192, NBD_CMD_FLAG_FAST_ZERO).Error);
        pieces.Info = info with { HasFastZeroes = true, MaxWriteZeroes = 0 };
        pieces.Take();
        Assert.Equal(NbdError.ENOTSUP, client.Do(NbdCommand.WRITE_ZEROES, 0, 8192, NBD_CMD_FLAG_FAST_ZERO).Error);
        Assert.Empty(pieces.Take());
        Assert.Equal(NbdError.None, client.Do(NbdCommand.WRITE_ZEROES, 0, 8192).Error);

        int Flags()
        {
            using var asking = NbdClient.Connect(fixture.Server);
            asking.Greet();
            return asking.Go().Flags;
        }
    }

    [Fact]
    public void Disk_that_takes_less_than_a_block_at_once_answers_with_an_error()
    {
        var pieces = new PiecesBackend();
        pieces.Info = pieces.Info with { BlockSize = 4096, MaxTransfer = 512 };
        using var fixture = new NbdFixture(pieces);
        using var client = NbdClient.Open(fixture.Server);
        Assert.Equal(NbdError.EIO, client.Do(NbdCommand.READ, 0, 4096).Error);
        Assert.Equal(NbdError.EIO, client.Do(NbdCommand.WRITE, 0, 4096, payload: new byte[4096]).Error);
        Assert.Equal(NbdError.EIO, client.Do(NbdCommand.WRITE_ZEROES, 0, 4096).Error);
        Assert.Empty(pieces.Take());
    }

    [Theory]
    [InlineData(false, NbdError.ENOSPC)]
    [InlineData(true, NbdError.EPERM)]
    internal void Payload_that_comes_late_is_not_written_where_the_disk_takes_it_no_more(bool becomesReadOnly, NbdError error)
    {
        var pieces = new PiecesBackend();
        using var fixture = new NbdFixture(pieces);
        using var client = NbdClient.Open(fixture.Server);
        var before = fixture.Export.Connection!.Messages;
        Assert.True(client.Send(NbdClient.Request(NbdCommand.WRITE, (1 << 20) - 32768, 32768, payload: new byte[100])));
        Deadline.Until(() => fixture.Export.Connection!.Messages > before, "the write to be taken");
        pieces.Info = becomesReadOnly ? pieces.Info with { IsReadOnly = true } : pieces.Info with { Capacity = 1 << 19 };
        Assert.True(client.Send(new byte[32768 - 100]));
        Assert.Equal(error, client.ReadAnswer().Error);
        Assert.Empty(pieces.Take());
        Assert.Equal(512, client.ReadAt(0, 512).Length);
    }

    [Fact]
    public void Zeros_that_take_hours_hold_up_no_other_request()
    {
        using var fixture = new NbdFixture(new SlowZeroesBackend());
        using var client = NbdClient.Open(fixture.Server);
        SendZeroes(client, 3);
        Assert.True(client.Send(NbdClient.Request(NbdCommand.READ, 0, 65536, cookie: 99)));
        Assert.Equal(99UL, client.ReadAnswer().Cookie);
        fixture.Server.RemoveAsync(fixture.Export).Ends("the removal");
        client.ExpectClosed();
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(100, false)]
    [InlineData(1, true)]
    public void Zeros_that_take_hours_end_with_the_client_that_wants_them(int count, bool endsItsSideOnly)
    {
        var backend = new SlowZeroesBackend();
        using var fixture = new NbdFixture(backend);
        using (var client = NbdClient.Open(fixture.Server))
        {
            SendZeroes(client, count);
            Deadline.Until(() => backend.Pieces > 1, "the first zeros");
            if (endsItsSideOnly)
            {
                EndSide(client);
                Assert.Equal(NbdError.ESHUTDOWN, client.ReadAnswer().Error);
                Assert.Null(client.Read(1));
            }
        }

        fixture.WaitIdle();
    }

    private static void SendZeroes(NbdClient client, int count) =>
        Assert.True(client.Send([.. Enumerable.Range(0, count).SelectMany(i => NbdClient.Request(NbdCommand.WRITE_ZEROES, 0, 0xfffffe00, cookie: (ulong)i))]));

    private static byte[] Requests(int count, NbdCommand command) =>
    [
        .. Enumerable.Range(0, count).SelectMany(i => NbdClient.Request(
            command, (ulong)(i % 1000) * 512, 512, cookie: (ulong)i, payload: command == NbdCommand.WRITE ? [.. Enumerable.Repeat((byte)(i + 1), 512)] : null)),
    ];

    private static List<ulong> Cookies(NbdClient client, int count)
    {
        List<ulong> cookies = [];
        for (var i = 0; i < count; i++)
        {
            var reply = client.ReadAnswer();
            Assert.Equal(NbdError.None, reply.Error);
            cookies.Add(reply.Cookie);
        }

        return cookies;
    }

    private static void ExpectWritten(NbdFixture fixture, int count)
    {
        using var client = NbdClient.Open(fixture.Server);
        Assert.Equal(Enumerable.Range(0, count).Select(static i => (byte)(i + 1)), Enumerable.Range(0, count).Select(i => client.ReadAt((ulong)i * 512, 512)[511]));
    }

    // Sends no more, and takes what comes.
    private static void EndSide(NbdClient client)
    {
        using var socket = new Socket(new SafeSocketHandle(client.Stream.Descriptor.DangerousGetHandle(), ownsHandle: false));
        socket.Shutdown(SocketShutdown.Send);
    }
}
