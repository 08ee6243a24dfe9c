using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>Guests drive virtio network devices with their own driver and talk through the fabric's switch.</summary>
public sealed class NetTests
{
    internal const long GiB = 1 << 30;
    private static readonly GuestProgram _program = new("net_test");

    [Fact]
    public async Task Two_guests_send_a_gibibyte_each_way_in_segments_longer_than_a_frame()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Pair("queues: 2", "queues: 2"));
        var (server, client) = await StartAsync(fabric);
        await server.TellAsync($"net_test plain $dev; net_test sniff $dev >/tmp/seen & echo $! >/tmp/pid; net_test serve 5001 {GiB} 1; kill $(cat /tmp/pid); wait; tail -n 1 /tmp/seen");
        await server.SeeAsync("listening");
        await client.TellAsync($"net_test talk 10.0.0.1 5001 {GiB} 1");
        await client.SeeAsync("same");
        await server.SeeAsync("same");
        var seen = Seen(await server.HearAsync());
        Assert.True(seen["long"] > 1000, string.Join(' ', seen));
        Assert.True(seen["open"] > 1000, string.Join(' ', seen));
        Assert.Equal(0, seen["wrong"]);
        await EndAsync(server, client);
    }

    [Fact]
    public async Task Guest_whose_device_offers_nothing_gets_frames_of_a_wire_with_right_checksums()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Pair("offloads: false", "queues: 1"));
        var (server, client) = await StartAsync(fabric);
        await server.TellAsync($"net_test plain $dev; net_test sniff $dev >/tmp/seen & echo $! >/tmp/pid; net_test serve 5001 {GiB >> 5} 1; kill $(cat /tmp/pid); wait; tail -n 1 /tmp/seen");
        await server.SeeAsync("listening");
        // Its own segments are as long as ever.
        await client.TellAsync($"net_test talk 10.0.0.1 5001 {GiB >> 5} 1; cat /sys/class/net/$dev/device/features | cut -c 12");
        await client.SeeAsync("same", "1");
        await server.SeeAsync("same");
        var seen = Seen(await server.HearAsync());
        Assert.True(seen["short"] > 10_000, string.Join(' ', seen));
        Assert.Equal((0, 0, 0), (seen["long"], seen["open"], seen["wrong"]));
        await EndAsync(server, client);
    }

    [Fact]
    public async Task Flows_spread_over_the_queues()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Pair("queues: 2", "queues: 2"));
        var (server, client) = await StartAsync(fabric, "--cpus=2");
        const string Count = """
            for q in 0 1; do awk -v q="virtio[0-9]+-input.$q" '$NF ~ q { n = 0; for (i = 2; i < NF; i++) if ($i ~ /^[0-9]+$/) n += $i; print (n > 100 ? "busy" : "idle " n) }' /proc/interrupts; done
            """;
        await server.TellAsync($"net_test serve 5001 {GiB >> 10} 16; {Count}");
        await server.SeeAsync("listening");
        await client.TellAsync($"net_test talk 10.0.0.1 5001 {GiB >> 10} 16");
        await client.SeeAsync("same");
        await server.SeeAsync("same", "busy", "busy");
        await EndAsync(server, client);
    }

    [Fact]
    public async Task Long_frames_pass_where_the_MTU_lets_them()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Pair("mtu: 9000", "mtu: 9000"));
        var (server, client) = await StartAsync(fabric);
        await server.TellAsync("cat /sys/class/net/$dev/mtu; net_test hear $dev 88b5");
        await server.SeeAsync("9000", "hearing");
        await client.TellAsync("net_test say $dev 88b5 9014 02:00:00:00:00:01");
        var expected = 0L;
        for (var i = 14; i < 9014; i++)
            expected += (byte)(i * 7);
        await server.SeeAsync($"9014 {expected}");
        await EndAsync(server, client);
    }

    [Fact]
    public async Task Guest_that_shares_no_memory_talks_to_one_that_does()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Pair("queues: 1", "queues: 1"));
        var server = Guest.Start(fabric, await ScriptAsync(1), "nic1", "--no-shared-memory");
        var client = Guest.Start(fabric, await ScriptAsync(2), "nic2");
        await ReadyAsync(server, client);
        await server.TellAsync($"net_test serve 5001 {GiB >> 10} 1");
        await server.SeeAsync("listening");
        await client.TellAsync($"net_test talk 10.0.0.1 5001 {GiB >> 10} 1");
        await client.SeeAsync("same");
        await server.SeeAsync("same");
        await EndAsync(server, client);
    }

    [Fact]
    public async Task Guests_with_virtual_functions_and_an_old_driver_talk()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("""
            functions:
              - { name: nic, virtio: net, vfs: 2, queues: 2 }
              - { name: old0, virtio: net, transitional: true, mac: "02:00:00:00:00:01" }
            """);
        var server = Guest.Start(fabric, await ScriptAsync(1), "old0", "--legacy");
        var client = Guest.Start(fabric, await ScriptAsync(2), "nicv1");
        await ReadyAsync(server, client);
        await server.TellAsync($"cut -c 33 </sys/class/net/$dev/device/features; net_test serve 5001 {GiB >> 5} 2");
        await server.SeeAsync("0", "listening");
        await client.TellAsync($"lspci -n -s $fn | cut -d ' ' -f 3; net_test talk 10.0.0.1 5001 {GiB >> 5} 2");
        await client.SeeAsync("1af4:1041", "same");
        await server.SeeAsync("same");
        await EndAsync(server, client);
    }

    private static string Pair(string first, string second) => $$"""
        functions:
          - { name: nic1, virtio: net, mac: "02:00:00:00:00:01", {{first}} }
          - { name: nic2, virtio: net, mac: "02:00:00:00:00:02", {{second}} }
        """;

    private static async Task<(Guest Server, Guest Client)> StartAsync(TestFabric fabric, params string[] options)
    {
        var server = Guest.Start(fabric, await ScriptAsync(1), ["nic1", .. options]);
        var client = Guest.Start(fabric, await ScriptAsync(2), ["nic2", .. options]);
        await ReadyAsync(server, client);
        return (server, client);
    }

    // Does what it is told, line by line, until it is told to end.
    internal static async Task<string> ScriptAsync(int number) => await _program.PreludeAsync() + $$"""
        modprobe virtio_net
        for n in /sys/class/net/*; do [ -e $n/device ] && dev=${n##*/}; done
        [ "$dev" ]
        fn=$(basename $(readlink -f /sys/class/net/$dev/device/..))
        ip addr add 10.0.0.{{number}}/24 dev $dev
        ip link set $dev up
        echo up
        while read -r line; do
            [ "$line" != end ] || exit 0
            eval "$line"
        done

        """;

    internal static async Task ReadyAsync(params Guest[] guests)
    {
        foreach (var guest in guests)
            await _program.SendAsync(guest);
        foreach (var guest in guests)
            await guest.SeeAsync("up");
    }

    internal static async Task EndAsync(params Guest[] guests)
    {
        foreach (var guest in guests)
            await guest.TellAsync("end");
        foreach (var guest in guests)
            Assert.Empty(await guest.EndAsync());
    }

    private static Dictionary<string, int> Seen(string line)
    {
        var words = line.Split(' ');
        return Enumerable.Range(0, words.Length / 2).ToDictionary(i => words[2 * i], i => int.Parse(words[(2 * i) + 1], System.Globalization.CultureInfo.InvariantCulture));
    }
}
