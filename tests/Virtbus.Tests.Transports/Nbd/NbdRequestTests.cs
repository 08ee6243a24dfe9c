using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Transports.Nbd;
using static Virtbus.Transports.Nbd.NbdProtocol;

namespace Virtbus.Tests.Transports.Nbd;

[Collection(WireCollection.Name)]
public class NbdRequestTests
{
    [Theory]
    [InlineData(true, 512)]
    [InlineData(true, 128 << 10)]
    [InlineData(true, 32 << 20)]
    [InlineData(false, 4096)]
    [InlineData(false, 32 << 20)]
    public void What_is_written_is_read(bool structured, int length)
    {
        using var fixture = new NbdFixture(new MemoryBackend(64 << 20));
        using var client = NbdClient.Open(fixture.Server, structured);
        var bytes = new byte[length];
        new Random(length).NextBytes(bytes);
        Assert.Equal(NbdError.None, client.Do(NbdCommand.WRITE, 512, (uint)length, 0, bytes, structured).Error);
        var reply = client.Do(NbdCommand.READ, 512, (uint)length, structured: structured);
        Assert.True(reply.Data.AsSpan().SequenceEqual(bytes), "what was read");
        Assert.Equal(structured ? (ushort)1 : null, reply.Type);
        Assert.Equal(structured ? 512u : 0u, reply.Offset);
        Assert.Equal(new byte[512], client.Do(NbdCommand.READ, 0, 512, structured: structured).Data);
    }

    [Fact]
    public void Requests_sent_together_are_all_answered_by_their_cookies()
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Open(fixture.Server);
        List<byte> all = [];
        for (var i = 0; i < 200; i++)
            all.AddRange(NbdClient.Request(NbdCommand.WRITE, (ulong)i * 4096, 4096, cookie: (ulong)i, payload: [.. Enumerable.Repeat((byte)i, 4096)]));
        Assert.True(client.Send(all.ToArray()));
        HashSet<ulong> cookies = [];
        for (var i = 0; i < 200; i++)
            Assert.True(cookies.Add(client.ReadAnswer().Cookie));
        Assert.Equal(199UL, cookies.Max());
        client.Send([.. Enumerable.Range(0, 200).SelectMany(i => NbdClient.Request(NbdCommand.READ, (ulong)i * 4096, 4096, cookie: (ulong)i))]);
        for (var i = 0; i < 200; i++)
        {
            var reply = client.ReadAnswer();
            Assert.Equal(Enumerable.Repeat((byte)reply.Cookie, 4096), reply.Data);
        }
    }

    [Fact]
    public void Requests_of_a_disk_that_answers_out_of_order_are_answered_by_their_cookies()
    {
        using var memory = new MemoryBackend(1 << 20);
        using var fixture = new NbdFixture(new FaultyBackend(memory, new FaultPlan { Seed = 3, Delay = 0.5, LongestDelay = 20, Reorder = true }));
        using var client = NbdClient.Open(fixture.Server);
        client.Send([.. Enumerable.Range(0, 200).SelectMany(i => NbdClient.Request(NbdCommand.WRITE, (ulong)i * 512, 512, cookie: (ulong)i, payload: [.. Enumerable.Repeat((byte)i, 512)]))]);
        List<ulong> order = [];
        for (var i = 0; i < 200; i++)
            order.Add(client.ReadAnswer().Cookie);
        Assert.Equal(200, order.Distinct().Count());
        Assert.NotEqual(order.Order(), order);
        for (var i = 0; i < 200; i++)
            Assert.Equal((byte)i, client.ReadAt((ulong)i * 512, 512)[511]);
    }

    [Theory]
    [InlineData(NbdCommand.READ, 0UL, 1u, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.READ, 1UL, 512u, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.READ, 1UL << 20, 512u, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.READ, 0xfffffffffffffe00, 1024u, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.READ, 1UL << 63, 512u, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.READ, 0UL, 0xfffffe00, 0, NbdError.EOVERFLOW)]
    [InlineData(NbdCommand.READ, 0UL, 512u, NBD_CMD_FLAG_REQ_ONE, NbdError.EINVAL)]
    [InlineData(NbdCommand.READ, 0UL, 512u, 0x8000, NbdError.EINVAL)]
    [InlineData(NbdCommand.TRIM, 1UL << 20, 512u, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.TRIM, 0UL, 512u, NBD_CMD_FLAG_NO_HOLE, NbdError.EINVAL)]
    [InlineData(NbdCommand.WRITE_ZEROES, 1UL << 20, 512u, 0, NbdError.ENOSPC)]
    [InlineData(NbdCommand.WRITE_ZEROES, 0UL, 512u, NBD_CMD_FLAG_DF, NbdError.EINVAL)]
    [InlineData(NbdCommand.FLUSH, 0UL, 512u, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.FLUSH, 512UL, 0u, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.BLOCK_STATUS, 0UL, 0u, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.BLOCK_STATUS, 0UL, 0xfffffe00, 0, NbdError.EINVAL)]
    [InlineData(NbdCommand.CACHE, 0UL, 512u, 0, NbdError.EINVAL)]
    [InlineData((NbdCommand)8, 0UL, 512u, 0, NbdError.EINVAL)]
    [InlineData((NbdCommand)0xffff, 0UL, 512u, 0, NbdError.EINVAL)]
    internal void Request_that_can_not_be_done_is_answered_and_the_next_is_served(NbdCommand command, ulong offset, uint length, ushort flags, NbdError error)
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Open(fixture.Server);
        Assert.Equal(error, client.Do(command, offset, length, flags).Error);
        Assert.Equal(512, client.ReadAt(0, 512).Length);
    }

    [Theory]
    [InlineData(1UL << 20, 512, 0, NbdError.ENOSPC)]
    [InlineData(0xfffffffffffffe00, 1024, 0, NbdError.ENOSPC)]
    [InlineData(7UL, 512, 0, NbdError.EINVAL)]
    [InlineData(0UL, 13, 0, NbdError.EINVAL)]
    [InlineData(0UL, 200_000, NBD_CMD_FLAG_DF, NbdError.EINVAL)]
    [InlineData(0UL, 2 << 20, 0, NbdError.ENOSPC)]
    internal void Payload_of_a_write_that_is_refused_is_no_request(ulong offset, int length, ushort flags, NbdError error)
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Open(fixture.Server);
        var request = NbdClient.Request(NbdCommand.READ, 0, 512);
        // What looks like requests, and is payload.
        var payload = Enumerable.Repeat(request, (length / request.Length) + 1).SelectMany(static r => r).Take(length).ToArray();
        Assert.Equal(error, client.Do(NbdCommand.WRITE, offset, (uint)length, flags, payload).Error);
        Assert.Equal(new byte[1 << 20], client.ReadAt(0, 1 << 20));
    }

    [Fact]
    public void Without_structured_replies_errors_have_no_data_and_DF_is_no_flag()
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Open(fixture.Server, structured: false);
        Assert.Equal(NbdError.EINVAL, client.Do(NbdCommand.READ, 0, 512, NBD_CMD_FLAG_DF, structured: false).Error);
        Assert.Equal(NbdError.EINVAL, client.Do(NbdCommand.READ, 0, 64 << 20, structured: false).Error);
        Assert.Equal(NbdError.EINVAL, client.Do(NbdCommand.BLOCK_STATUS, 0, 512, structured: false).Error);
        Assert.Equal(512, client.Do(NbdCommand.READ, 0, 512, structured: false).Data.Length);
    }

    [Fact]
    public void Requests_of_no_length_do_nothing()
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Open(fixture.Server);
        foreach (var command in new[] { NbdCommand.READ, NbdCommand.WRITE, NbdCommand.TRIM, NbdCommand.WRITE_ZEROES })
        {
            var reply = client.Do(command, 512, 0, NBD_CMD_FLAG_FUA);
            Assert.Equal((NbdError.None, 0), (reply.Error, reply.Data.Length));
        }

        using var plain = NbdClient.Open(fixture.Server, structured: false);
        Assert.Empty(plain.Do(NbdCommand.READ, 512, 0, structured: false).Data);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Read_only_export_refuses_what_writes(bool isDisk)
    {
        using var fixture = new NbdFixture(new MemoryBackend(1 << 20, readOnly: isDisk), readOnly: !isDisk);
        using var client = NbdClient.Open(fixture.Server);
        Assert.Equal(NbdError.EPERM, client.Do(NbdCommand.WRITE, 0, 512, payload: new byte[512]).Error);
        Assert.Equal(NbdError.EPERM, client.Do(NbdCommand.TRIM, 0, 512).Error);
        Assert.Equal(NbdError.EPERM, client.Do(NbdCommand.WRITE_ZEROES, 0, 512).Error);
        Assert.Equal(512, client.ReadAt(0, 512).Length);
    }

    [Fact]
    public void Discarded_and_zeroed_bytes_read_as_zeros_and_are_holes()
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Open(fixture.Server);
        client.WriteAt(0, [.. Enumerable.Repeat((byte)7, 32768)]);
        Assert.Equal([(32768u, 0u)], client.Do(NbdCommand.BLOCK_STATUS, 0, 32768).Extents);
        Assert.Equal(NbdError.None, client.Do(NbdCommand.TRIM, 4096, 4096).Error);
        Assert.Equal(NbdError.None, client.Do(NbdCommand.WRITE_ZEROES, 16384, 8192, NBD_CMD_FLAG_FAST_ZERO).Error);
        var status = client.Do(NbdCommand.BLOCK_STATUS, 0, 65536);
        Assert.Equal([(4096u, 0u), (4096u, 3u), (8192u, 0u), (8192u, 3u), (8192u, 0u), (32768u, 3u)], status.Extents);
        Assert.Equal((ushort?)5, status.Type);
        Assert.Equal(1u, status.Offset);
        Assert.Equal([(2048u, 3u)], client.Do(NbdCommand.BLOCK_STATUS, 6144, 65536, NBD_CMD_FLAG_REQ_ONE).Extents);
        Assert.Equal(new byte[4096], client.ReadAt(4096, 4096));
        Assert.Equal(new byte[8192], client.ReadAt(16384, 8192));
        Assert.Equal(7, client.ReadAt(24576, 512)[0]);
    }

    [Fact]
    public void Block_status_of_many_extents_ends_before_its_range_does()
    {
        using var fixture = new NbdFixture(new MemoryBackend(16 << 20));
        using var client = NbdClient.Open(fixture.Server);
        for (var i = 0; i < 2000; i++)
            client.WriteAt((ulong)i * 8192, new byte[512]);
        var extents = client.Do(NbdCommand.BLOCK_STATUS, 0, 16 << 20).Extents;
        Assert.Equal(512, extents.Count);
        Assert.Equal(512L * 4096, extents.Sum(static e => e.Length));
        Assert.Equal([(4096u, 0u), (4096u, 3u)], extents.Take(2));
    }

    [Fact]
    public void Flush_and_forced_writes_reach_the_disk()
    {
        var counting = new CountingBackend();
        using var fixture = new NbdFixture(counting);
        using var client = NbdClient.Open(fixture.Server);
        client.WriteAt(0, new byte[512]);
        Assert.Equal(0, counting.Flushes);
        Assert.Equal(NbdError.None, client.Do(NbdCommand.FLUSH, 0, 0).Error);
        Assert.Equal(1, counting.Flushes);
        // A write says it of itself; what makes zeros and discards is flushed.
        Assert.Equal(NbdError.None, client.Do(NbdCommand.TRIM, 0, 512, NBD_CMD_FLAG_FUA).Error);
        Assert.Equal(2, counting.Flushes);
        Assert.Equal(NbdError.None, client.Do(NbdCommand.WRITE_ZEROES, 0, 512, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE).Error);
        Assert.Equal(3, counting.Flushes);
        Assert.Equal(NbdError.None, client.Do(NbdCommand.READ, 0, 512, NBD_CMD_FLAG_FUA).Error);
        Assert.Equal(3, counting.Flushes);
    }

    [Fact]
    public void Long_requests_go_in_the_pieces_that_the_disk_takes()
    {
        var pieces = new PiecesBackend();
        using var fixture = new NbdFixture(pieces);
        using var client = NbdClient.Open(fixture.Server);
        var bytes = new byte[40960];
        new Random(1).NextBytes(bytes);
        client.WriteAt(4096, bytes, NBD_CMD_FLAG_FUA);
        Assert.Equal([(BlockOperation.Write, 4096L, 16384L, true), (BlockOperation.Write, 20480L, 16384L, true), (BlockOperation.Write, 36864L, 8192L, true)], pieces.Take());
        Assert.Equal(bytes, client.ReadAt(4096, 40960));
        Assert.Equal(3, pieces.Take().Count);
        // No zeros: they are written. It takes discards of 8 KiB.
        Assert.Equal(NbdError.None, client.Do(NbdCommand.WRITE_ZEROES, 4096, 20480).Error);
        Assert.Equal([(BlockOperation.Write, 4096L, 16384L, false), (BlockOperation.Write, 20480L, 4096L, false)], pieces.Take());
        Assert.Equal(new byte[20480], client.ReadAt(4096, 20480));
        pieces.Take();
        Assert.Equal(NbdError.None, client.Do(NbdCommand.TRIM, 0, 20480).Error);
        Assert.Equal([(BlockOperation.Discard, 0L, 8192L, false), (BlockOperation.Discard, 8192L, 8192L, false), (BlockOperation.Discard, 16384L, 4096L, false)], pieces.Take());
    }

    [Theory]
    [InlineData(Errno.EIO, NbdError.EIO)]
    [InlineData(Errno.ENOSPC, NbdError.ENOSPC)]
    [InlineData(Errno.EFBIG, NbdError.ENOSPC)]
    [InlineData(Errno.EDQUOT, NbdError.ENOSPC)]
    [InlineData(Errno.EROFS, NbdError.EPERM)]
    [InlineData(Errno.ENODEV, NbdError.ESHUTDOWN)]
    [InlineData(Errno.ENOTTY, NbdError.EIO)]
    internal void Error_of_the_disk_is_one_of_the_protocol(Errno error, NbdError told)
    {
        var pieces = new PiecesBackend { Error = error };
        using var fixture = new NbdFixture(pieces);
        using var client = NbdClient.Open(fixture.Server);
        Assert.Equal(told, client.Do(NbdCommand.READ, 0, 512).Error);
        Assert.Equal(told, client.Do(NbdCommand.WRITE, 0, 512, payload: new byte[512]).Error);
        using var plain = NbdClient.Open(fixture.Server, structured: false);
        Assert.Equal(told, plain.Do(NbdCommand.READ, 0, 512, structured: false).Error);
        pieces.Error = Errno.None;
        Assert.Equal(512, plain.Do(NbdCommand.READ, 0, 512, structured: false).Data.Length);
    }

    [Fact]
    public void Disk_of_another_size_is_served_as_it_is_now()
    {
        using var fixture = new NbdFixture(new NullBackend(1 << 20));
        using var client = NbdClient.Open(fixture.Server);
        ((NullBackend)fixture.Backend).Resize(2 << 20);
        Assert.Equal(NbdError.None, client.Do(NbdCommand.READ, 1 << 20, 512).Error);
        ((NullBackend)fixture.Backend).Resize(4096);
        Assert.Equal(NbdError.ENOSPC, client.Do(NbdCommand.WRITE, 4096, 512, payload: new byte[512]).Error);
        using var later = NbdClient.Connect(fixture.Server);
        later.Greet();
        Assert.Equal(4096, later.Go().Size);
    }

    [Fact]
    public void Requests_before_a_disconnect_are_done_though_the_client_does_not_wait()
    {
        using var memory = new MemoryBackend(1 << 20);
        using var fixture = new NbdFixture(new FaultyBackend(memory, new FaultPlan { Seed = 5, Delay = 1, LongestDelay = 40, Reorder = true }));
        using (var client = NbdClient.Open(fixture.Server))
        {
            List<byte> all = [];
            for (var i = 0; i < 40; i++)
                all.AddRange(NbdClient.Request(NbdCommand.WRITE, (ulong)i * 512, 512, payload: [.. Enumerable.Repeat((byte)(i + 1), 512)]));
            all.AddRange(NbdClient.Request(NbdCommand.DISC, 0, 0));
            Assert.True(client.Send(all.ToArray()));
        }

        fixture.WaitIdle();
        using var next = NbdClient.Open(fixture.Server);
        for (var i = 0; i < 40; i++)
            Assert.Equal((byte)(i + 1), next.ReadAt((ulong)i * 512, 512)[0]);
        Assert.True(next.Send(NbdClient.Request(NbdCommand.DISC, 0, 0)));
        Assert.Null(next.Read(1));
        Assert.Equal(0, fixture.Export.BadMessages);
    }

    [Fact]
    public void What_one_connection_has_written_another_one_reads_and_flushes()
    {
        var path = Path.Combine(AppContext.BaseDirectory, $"virtbus-{Guid.NewGuid()}");
        File.WriteAllBytes(path, new byte[1 << 20]);
        try
        {
            using var fixture = new NbdFixture(FileBackend.Open(path));
            using var first = NbdClient.Open(fixture.Server);
            using var second = NbdClient.Open(fixture.Server);
            var bytes = new byte[65536];
            new Random(2).NextBytes(bytes);
            first.WriteAt(4096, bytes);
            Assert.Equal(NbdError.None, second.Do(NbdCommand.FLUSH, 0, 0).Error);
            Assert.Equal(bytes, second.ReadAt(4096, 65536));
            // The runtime's own types would lock the file, which the disk has done.
            using var file = FileDescriptor.TryOpen(path, writable: false, out _)!;
            using var kept = new AlignedBuffer(bytes.Length, 4096);
            Assert.Equal(bytes.Length, file.ReadVectors([kept.Take(bytes.Length)], 4096, out _));
            Assert.Equal(bytes, kept.Take(bytes.Length).AsSpan());
            Assert.Equal(2, fixture.Export.Clients);
            Assert.Equal(2, fixture.Export.Connections);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Request_allocates_nothing()
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Open(fixture.Server);
        var requests = Enumerable.Range(0, 32).SelectMany(i => NbdClient.Request(NbdCommand.READ, (ulong)i * 4096, 4096)).ToArray();
        var replies = new byte[32 * (28 + 4096)];
        List<FileDescriptor> none = [];
        Round(50);
        var before = GC.GetTotalAllocatedBytes(precise: true);
        Round(500);
        // 16,000 requests: one object each would be more than 300,000 bytes.
        Assert.InRange(GC.GetTotalAllocatedBytes(precise: true) - before, 0, 64 << 10);

        void Round(int times)
        {
            for (var i = 0; i < times; i++)
            {
                if (client.Stream.Send(requests, [], out _) != requests.Length)
                    Assert.Fail("the socket takes 32 requests at once");
                for (var at = 0; at < replies.Length;)
                {
                    var came = client.Stream.Receive(replies.AsSpan(at), none, out _);
                    if (came > 0)
                        at += came;
                    else
                        Polling.Wait(client.Stream.Descriptor, forWriting: false, cancel: null);
                }
            }
        }
    }
}
