using System.Diagnostics;
using System.Net.Sockets;

namespace Virtbus.Tests.Cli;

/// <summary>A host that gives the process less than a fabric takes.</summary>
public sealed class LimitTests
{
    private const string Nobody = "65534";

    [Theory]
    [InlineData("-n 64", "", "The limit of open files (ulimit -n) is 64, and this fabric needs 512. Raise it with 'ulimit -n 512'")]
    [InlineData("-n 400", "", "The limit of open files (ulimit -n) is 400, and this fabric needs 512. Raise it with 'ulimit -n 512'")]
    [InlineData("-n 600", "adapters: [{ name: a, model: merlin, vfs: 20 }]", "The limit of open files (ulimit -n) is 600, and this fabric needs 672. Raise it with 'ulimit -n 672'")]
    [InlineData("-v 3000000", "", "The limit of address space in KiB (ulimit -v) is 3000000, and this fabric needs 8388608. Raise it with 'ulimit -v 8388608'")]
    [InlineData(
        "-f 100000",
        "adapters: [{ name: a, model: merlin }]\ndisks: [{ name: d, adapter: a, memory: 1GiB }]",
        "The limit of file size in KiB (ulimit -f) is 100000, and this fabric needs 1048576. Raise it with 'ulimit -f 1048576'")]
    public async Task Limit_too_low_is_one_sentence_and_nothing_is_made(string limit, string manifest, string says)
    {
        await using var fabric = new TestFabric();
        foreach (var way in new[] { "--detach", "-j" })
        {
            var run = await UnderAsync(fabric, $"ulimit {limit}", TestFabric.Program, $"up '{fabric.Write("m.yaml", manifest)}' {way}");
            Assert.Equal((1, ""), (run.Code, run.Output));
            Assert.StartsWith("virtbus: " + says, run.Errors, StringComparison.Ordinal);
            Assert.Equal(1, run.Errors.Count(c => c == '\n'));
            Assert.False(File.Exists(fabric.ControlSocket));
            Assert.False(File.Exists(Path.Combine(fabric.Runtime, "lock")));
        }
    }

    [Theory]
    [InlineData("-Sn 64")]
    [InlineData("-n 600")]
    [InlineData("-v 9000000")]
    [InlineData("-f 100000")]
    public async Task Limit_that_is_enough_is_enough(string limit)
    {
        await using var fabric = new TestFabric();
        var run = await UnderAsync(fabric, $"ulimit {limit}", TestFabric.Program, $"up '{fabric.Write("m.yaml", TestFabric.DemoManifest)}' --detach");
        Assert.True(run.Code == 0, run.ToString());
        await fabric.OkAsync("down");
    }

    [Fact]
    public async Task Clients_of_the_control_socket_that_stay_do_not_take_all_descriptors()
    {
        const int Most = 37;
        await using var fabric = new TestFabric();
        var run = await UnderAsync(fabric, "ulimit -n 600", TestFabric.Program, $"up '{fabric.Write("m.yaml", TestFabric.DemoManifest)}' --detach");
        Assert.True(run.Code == 0, run.ToString());
        var clients = new List<Socket>();
        using var timeout = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        try
        {
            for (var i = 0; i < 400; i++)
            {
                clients.Add(new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified));
                clients[^1].Connect(new UnixDomainSocketEndPoint(fabric.ControlSocket));
            }

            foreach (var client in clients.Skip(Most))
                Assert.Equal(0, await client.ReceiveAsync(new byte[1], timeout.Token));
        }
        finally
        {
            clients.ForEach(client => client.Dispose());
        }

        await fabric.OkAsync("down");
    }

    [Fact]
    public async Task Too_few_threads_are_one_sentence()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "Needs root, to run as a user who has no other process.");
        await using var fabric = new TestFabric();
        var folder = Path.GetDirectoryName(fabric.Runtime)!;
        using (var give = Process.Start("chown", [Nobody, folder]))
            await give.EndsAsync();
        var reach = await UnderAsync(fabric, "true", "setpriv", $"--reuid {Nobody} --clear-groups test -x '{TestFabric.Program}'");
        Assert.SkipWhen(reach.Code != 0, "The program lies where other users do not get, or there is no setpriv.");
        // As many as the runtime takes to start; a thread of each processor is among them.
        var limit = 32 + (2 * Environment.ProcessorCount);
        var run = await UnderAsync(fabric, "true", "setpriv", $"--reuid {Nobody} --clear-groups bash -c \"ulimit -u {limit}; exec '{TestFabric.Program}' up -j\"");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.StartsWith($"virtbus: The limit of processes and threads of user {Nobody} (ulimit -u) is {limit}, and fewer than the 64 that a fabric needs are left.", run.Errors, StringComparison.Ordinal);
    }

    private static Task<ProgramRun> UnderAsync(TestFabric fabric, string limit, string program, string arguments) =>
        TestFabric.EndAsync(fabric.StartProgram("bash", "-c", $"ulimit -c 0; {limit}; exec '{program}' {arguments}"));
}
