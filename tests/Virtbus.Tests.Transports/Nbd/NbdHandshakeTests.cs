using System.Buffers.Binary;
using System.Text;
using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Transports.Nbd;

namespace Virtbus.Tests.Transports.Nbd;

[Collection(WireCollection.Name)]
public class NbdHandshakeTests
{
    private const uint Ack = (uint)NbdOptionReply.ACK;

    [Fact]
    public void List_names_every_export_and_what_it_is()
    {
        using var fixture = new NbdFixture();
        fixture.Server.Add(new NbdExport("zweite Ü", fixture.Backend));
        using var client = NbdClient.Connect(fixture.Server);
        client.Greet();
        var first = client.Ask(NbdOption.LIST);
        Assert.Equal((uint)NbdOptionReply.SERVER, first.Reply);
        Assert.Equal(4, BinaryPrimitives.ReadInt32BigEndian(first.Data));
        Assert.Equal("diska disk of the tests", Encoding.UTF8.GetString(first.Data, 4, first.Data.Length - 4));
        var second = client.ReadReply();
        Assert.Equal("zweite Ü", Encoding.UTF8.GetString(second.Data, 4, second.Data.Length - 4));
        Assert.Equal(Ack, client.ReadReply().Reply);
        Assert.Equal((uint)NbdOptionReply.ERR_INVALID, client.Ask(NbdOption.LIST, [1]).Reply);
    }

    [Fact]
    public void Info_tells_size_flags_block_sizes_and_what_was_asked_for()
    {
        using var fixture = new NbdFixture(new MemoryBackend(1 << 20, 4096));
        using var client = NbdClient.Connect(fixture.Server);
        client.Greet();
        client.Send(NbdClient.Option((uint)NbdOption.INFO, NbdClient.Choice("disk", 1, 2, 77)));
        Dictionary<int, byte[]> infos = [];
        NbdOptionAnswer answer;
        while ((answer = client.ReadReply((uint)NbdOption.INFO)).Reply == (uint)NbdOptionReply.INFO)
            infos.Add(answer.Data[1], answer.Data[2..]);
        Assert.Equal(Ack, answer.Reply);
        Assert.Equal([0, 1, 2, 3], infos.Keys.Order());
        Assert.Equal(1UL << 20, BinaryPrimitives.ReadUInt64BigEndian(infos[0]));
        Assert.Equal("disk", Encoding.UTF8.GetString(infos[1]));
        Assert.Equal("a disk of the tests", Encoding.UTF8.GetString(infos[2]));
        Assert.Equal([4096u, 4096u, 32u << 20], Enumerable.Range(0, 3).Select(i => BinaryPrimitives.ReadUInt32BigEndian(infos[3].AsSpan(i * 4))));
        // The handshake goes on.
        Assert.Equal(1 << 20, client.Go().Size);
    }

    [Fact]
    public void Flags_say_what_the_disk_can_do()
    {
        // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, FAST_ZERO.
        Assert.Equal(0x96d, FlagsOf(new NbdFixture()));
        // And DF, once structured replies are agreed on.
        Assert.Equal(0x9ed, FlagsOf(new NbdFixture(), structured: true));
        Assert.Equal(0x103, FlagsOf(new NbdFixture(readOnly: true)));
        Assert.Equal(0x103, FlagsOf(new NbdFixture(new MemoryBackend(1 << 20, readOnly: true))));
        // Zeros are written where a disk has no other way.
        Assert.Equal(0x16d, FlagsOf(new NbdFixture(new NullBackend(1 << 20))));

        static int FlagsOf(NbdFixture fixture, bool structured = false)
        {
            using (fixture)
            {
                using var client = NbdClient.Connect(fixture.Server);
                client.Greet();
                if (structured)
                    client.Ask(NbdOption.STRUCTURED_REPLY);
                return client.Go().Flags;
            }
        }
    }

    [Fact]
    public void Export_name_enters_at_once_and_has_no_way_to_refuse_but_to_hang_up()
    {
        using var fixture = new NbdFixture();
        using (var client = NbdClient.Connect(fixture.Server))
        {
            client.Greet();
            client.Send(NbdClient.Option(1, "disk"u8.ToArray()));
            var answer = client.Read(10)!;
            Assert.Equal(1L << 20, BinaryPrimitives.ReadInt64BigEndian(answer));
            Assert.Equal(0x96d, BinaryPrimitives.ReadUInt16BigEndian(answer.AsSpan(8)));
            Assert.Equal(512, client.Do(NbdCommand.READ, 0, 512, structured: false).Data.Length);
        }

        using (var client = NbdClient.Connect(fixture.Server))
        {
            // Without NO_ZEROES as many follow as the protocol had reserved.
            client.Greet(flags: 1);
            client.Send(NbdClient.Option(1, []));
            Assert.Equal(new byte[124], client.Read(134)![10..]);
            Assert.Equal(512, client.Do(NbdCommand.READ, 0, 512, structured: false).Data.Length);
        }

        using (var client = NbdClient.Connect(fixture.Server))
        {
            client.Greet();
            client.Send(NbdClient.Option(1, "other"u8.ToArray()));
            Assert.Null(client.Read(1));
        }
    }

    [Theory]
    [InlineData(NbdOption.STARTTLS, NbdOptionReply.ERR_UNSUP)]
    [InlineData((NbdOption)4, NbdOptionReply.ERR_UNSUP)]
    [InlineData((NbdOption)11, NbdOptionReply.ERR_UNSUP)]
    [InlineData((NbdOption)0xffffffff, NbdOptionReply.ERR_UNSUP)]
    [InlineData(NbdOption.LIST_META_CONTEXT, NbdOptionReply.ERR_INVALID)]
    [InlineData(NbdOption.SET_META_CONTEXT, NbdOptionReply.ERR_INVALID)]
    [InlineData(NbdOption.GO, NbdOptionReply.ERR_INVALID)]
    [InlineData(NbdOption.INFO, NbdOptionReply.ERR_INVALID)]
    internal void Option_that_can_not_be_granted_is_answered_and_the_handshake_goes_on(NbdOption option, NbdOptionReply reply)
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Connect(fixture.Server);
        client.Greet();
        Assert.Equal((uint)reply, client.Ask(option).Reply);
        Assert.Equal((uint)reply, client.Ask(option, [0, 0, 0, 9, 1]).Reply);
        client.Go();
    }

    [Fact]
    public void Names_of_exports_are_bounded_and_text()
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Connect(fixture.Server);
        client.Greet();
        foreach (var wrong in new byte[][]
        {
            NbdClient.Choice(new string('x', 4097)),
            NbdClient.Choice("a\0b"),
            [0, 0, 0, 1, 0xff, 0, 0],
            [.. NbdClient.Choice("disk"), 7],
            [0xff, 0xff, 0xff, 0xff, 1, 2],
            [0, 0, 0, 0, 0, 2, 0, 3],
        })
        {
            Assert.Equal((uint)NbdOptionReply.ERR_INVALID, client.Ask(NbdOption.GO, wrong).Reply);
        }

        Assert.Equal((uint)NbdOptionReply.ERR_UNKNOWN, client.Ask(NbdOption.GO, NbdClient.Choice(new string('x', 4096))).Reply);
        Assert.Equal((uint)NbdOptionReply.ERR_UNKNOWN, client.Ask(NbdOption.INFO, NbdClient.Choice("Disk")).Reply);
        Assert.Throws<VirtbusException>(() => new NbdExport(new string('x', 4097), fixture.Backend));
        Assert.Throws<VirtbusException>(() => new NbdExport("a\0b", fixture.Backend));
        Assert.Equal(Errno.EEXIST, Assert.Throws<VirtbusException>(() => fixture.Server.Add(new NbdExport("disk", fixture.Backend))).Errno);
    }

    [Fact]
    public void No_name_is_the_only_export_there_is_or_the_one_without_a_name()
    {
        using var fixture = new NbdFixture();
        var second = new NbdExport("second", new MemoryBackend(4096));
        var nameless = new NbdExport("", new MemoryBackend(8192));
        Assert.Equal(1 << 20, SizeOf(""));
        fixture.Server.Add(second);
        Assert.Null(SizeOf(""));
        Assert.Equal(4096, SizeOf("second"));
        fixture.Server.Add(nameless);
        Assert.Equal(8192, SizeOf(""));
        Assert.Equal(1 << 20, SizeOf("disk"));
        fixture.Server.RemoveAsync(second).Ends("the removal");
        Assert.Null(SizeOf("second"));

        long? SizeOf(string name)
        {
            using var client = NbdClient.Connect(fixture.Server);
            client.Greet();
            return client.Ask(NbdOption.INFO, NbdClient.Choice(name)) is { Reply: (uint)NbdOptionReply.INFO } answer
                ? BinaryPrimitives.ReadInt64BigEndian(answer.Data.AsSpan(2))
                : null;
        }
    }

    [Fact]
    public void Contexts_are_listed_by_name_by_wildcard_and_without_a_query()
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Connect(fixture.Server);
        client.Greet();
        client.Ask(NbdOption.STRUCTURED_REPLY);
        foreach (var queries in new string[][] { [], ["base:"], ["x-other:thing", "base:allocation"] })
        {
            var answer = client.Ask(NbdOption.LIST_META_CONTEXT, NbdClient.Contexts("disk", queries));
            Assert.Equal((uint)NbdOptionReply.META_CONTEXT, answer.Reply);
            Assert.Equal("\0\0\0\0base:allocation", answer.Text);
            Assert.Equal(Ack, client.ReadReply().Reply);
        }

        Assert.Equal(Ack, client.Ask(NbdOption.LIST_META_CONTEXT, NbdClient.Contexts("disk", "base:other", "qemu:")).Reply);
        Assert.Equal((uint)NbdOptionReply.ERR_UNKNOWN, client.Ask(NbdOption.LIST_META_CONTEXT, NbdClient.Contexts("none")).Reply);
        Assert.Equal((uint)NbdOptionReply.ERR_TOO_BIG, client.Ask(NbdOption.LIST_META_CONTEXT, NbdClient.Contexts("disk", [.. Enumerable.Repeat("a:", 300)])).Reply);
        Assert.Equal((uint)NbdOptionReply.ERR_INVALID, client.Ask(NbdOption.LIST_META_CONTEXT, [.. NbdClient.Contexts("disk", "base:"), 1]).Reply);
    }

    [Fact]
    public void Allocation_can_be_asked_for_only_when_it_was_set_last_for_the_export_that_is_entered()
    {
        using var fixture = new NbdFixture();
        fixture.Server.Add(new NbdExport("other", fixture.Backend));
        Assert.Equal(NbdError.None, StatusAfter([("disk", "base:allocation")]));
        Assert.Equal(NbdError.EINVAL, StatusAfter([]));
        // A wildcard selects nothing; an empty set takes back what was set before, and so does one that fails.
        Assert.Equal(NbdError.EINVAL, StatusAfter([("disk", "base:")]));
        Assert.Equal(NbdError.EINVAL, StatusAfter([("other", "base:allocation")]));
        Assert.Equal(NbdError.EINVAL, StatusAfter([("disk", "base:allocation"), ("disk", null)]));
        Assert.Equal(NbdError.EINVAL, StatusAfter([("disk", "base:allocation"), ("none", "base:allocation")]));
        Assert.Equal(NbdError.None, StatusAfter([("other", "base:allocation"), ("disk", "base:allocation")]));

        NbdError StatusAfter((string Export, string? Query)[] sets)
        {
            using var client = NbdClient.Connect(fixture.Server);
            client.Greet();
            client.Ask(NbdOption.STRUCTURED_REPLY);
            foreach (var (export, query) in sets)
            {
                if (client.Ask(NbdOption.SET_META_CONTEXT, NbdClient.Contexts(export, query is null ? [] : [query])).Reply == (uint)NbdOptionReply.META_CONTEXT)
                    Assert.Equal(Ack, client.ReadReply().Reply);
            }

            client.Go("disk");
            return client.Do(NbdCommand.BLOCK_STATUS, 0, 4096).Error;
        }
    }

    [Fact]
    public void Client_that_gives_up_is_told_so_and_its_connection_closed()
    {
        using var fixture = new NbdFixture();
        using var client = NbdClient.Connect(fixture.Server);
        client.Greet();
        Assert.Equal(Ack, client.Ask(NbdOption.ABORT, [1, 2, 3]).Reply);
        client.ExpectClosed();
        Assert.Equal(0, fixture.Server.BadMessages);
    }

    [Theory]
    [InlineData("127.0.0.1:10809", "127.0.0.1:10809")]
    [InlineData("127.0.0.1", "127.0.0.1:10809")]
    [InlineData("[::1]:99", "[::1]:99")]
    [InlineData("::1", "[::1]:10809")]
    [InlineData("127.0.0.1:0", "127.0.0.1:0")]
    [InlineData("127.0.0.1:00", "127.0.0.1:0")]
    [InlineData("[::1]:0", "[::1]:0")]
    [InlineData("[::1]", "[::1]:10809")]
    public void Loopback_is_listened_on_without_being_asked_twice(string text, string address)
    {
        Assert.Equal(address, NbdAddress.OfTcp(text).ToString());
        Assert.True(NbdAddress.OfTcp(text).IsLocal);
    }

    [Theory]
    [InlineData("0.0.0.0:10809")]
    [InlineData("[::]:10809")]
    [InlineData("192.168.1.1:10809")]
    public void Other_address_is_refused_unless_it_is_asked_for(string text)
    {
        Assert.Contains("TLS", Assert.Throws<VirtbusException>(() => NbdAddress.OfTcp(text)).Message, StringComparison.Ordinal);
        Assert.False(NbdAddress.OfTcp(text, insecure: true).IsLocal);
    }

    [Fact]
    public void Address_that_ends_like_a_port_of_zero_has_the_port_of_NBD() =>
        Assert.Equal("[2001:db8::1:0]:10809", NbdAddress.OfTcp("2001:db8::1:0", insecure: true).ToString());

    [Theory]
    [InlineData("localhost:1")]
    [InlineData("")]
    [InlineData("127.0.0.1:65536")]
    [InlineData("10809")]
    [InlineData("127.1:10809")]
    [InlineData("0x7f.0.0.1:10809")]
    [InlineData("fe80::1%1")]
    [InlineData("[fe80::1%1]:10809")]
    public void Text_that_is_no_address_is_refused(string text) =>
        Assert.Equal(Errno.EINVAL, Assert.Throws<VirtbusException>(() => NbdAddress.OfTcp(text, insecure: true)).Errno);

    [Fact]
    public void Address_in_use_is_said_to_be()
    {
        using var fixture = new NbdFixture(tcp: true);
        var second = new NbdServer(fixture.Server.Address, fixture.Log);
        Assert.Equal(Errno.EADDRINUSE, Assert.Throws<VirtbusException>(second.Start).Errno);
        Assert.Contains("in use", Assert.Throws<VirtbusException>(second.Start).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Client_over_TCP_is_known_by_its_address()
    {
        using var fixture = new NbdFixture(tcp: true);
        using var client = NbdClient.Open(fixture.Server);
        var connection = fixture.Export.Connection!;
        Assert.Equal(0, connection.Process);
        Assert.StartsWith("127.0.0.1:", connection.Name, StringComparison.Ordinal);
        Assert.Equal($"nbd://{fixture.Server.Address}/disk", fixture.Uri);
        Assert.Equal(512, client.ReadAt(0, 512).Length);
    }
}
