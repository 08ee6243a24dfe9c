using System.Net.Sockets;
using Virtbus.Remote.Pci.VfioUser;

namespace Virtbus.Tests.Cli;

/// <summary>Functions as people meet them: in use when they are to go, not back after a start, called by their own names. PV-01, PV-05.</summary>
public sealed class FunctionUseTests
{
    private const string Manifest = """
        adapters:
          - { name: adapter0, model: merlin }
        disks:
          - { name: disk0, adapter: adapter0, memory: 1MiB }

        """;

    [Fact]
    public async Task Disk_that_somebody_has_open_is_deactivated_when_it_is_let_go_or_taken()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        await fabric.OkAsync("function", "define", "d1", "--kind", "disk", "--parent", "adapter0", "memory=1MiB");
        await fabric.OkAsync("function", "activate", "d1");
        var user = await ConnectAsync("d1");
        Assert.Matches("d1 +disk +adapter0 +in use", await fabric.OkAsync("function", "list"));
        var deactivate = fabric.Start("function", "deactivate", "d1");
        Assert.Matches(
            $"^virtbus: Device d1 is open by process {Environment.ProcessId} .*/d1\\.sock\\. d1 is taken away when it has let go\\. .*'virtbus function deactivate d1 --force'",
            (await deactivate.StandardError.ReadLineAsync(deadline.Token))!);
        await UntilAsync("draining");
        Assert.False(deactivate.HasExited);
        // Its user has it still.
        Assert.False(user.Poll(100_000, SelectMode.SelectRead));
        user.Dispose();
        Assert.Equal("d1: configured\n", await deactivate.StandardOutput.ReadToEndAsync(deadline.Token));

        // Forced, also when somebody waits for that already.
        await fabric.OkAsync("function", "activate", "d1");
        user = await ConnectAsync("d1");
        Assert.Equal("d1: configured\n", await fabric.OkAsync("function", "deactivate", "d1", "--force"));
        Assert.Equal(0, await user.ReceiveAsync(new byte[1], deadline.Token));
        user.Dispose();
        await fabric.OkAsync("function", "activate", "d1");
        user = await ConnectAsync("d1");
        deactivate = fabric.Start("function", "deactivate", "d1");
        await UntilAsync("draining");
        Assert.Equal("d1: configured\n", await fabric.OkAsync("function", "deactivate", "d1", "--force"));
        Assert.Equal("d1: configured\n", await deactivate.StandardOutput.ReadToEndAsync(deadline.Token));
        user.Dispose();

        // A manifest waits as well, and at the end nobody does.
        user = await ConnectAsync("disk0");
        var next = fabric.Write("next.yaml", "adapters: [ { name: adapter0, model: merlin } ]\n");
        Assert.Equal("- disk disk0 on adapter0, when it is let go: it is in use\n", (await fabric.RunAsync("diff", next)).Output);
        var apply = fabric.Start("apply", next);
        await UntilAsync("draining");
        Assert.False(user.Poll(100_000, SelectMode.SelectRead));
        await fabric.OkAsync("down");
        user.Dispose();
        await TestFabric.EndAsync(apply);

        async Task<Socket> ConnectAsync(string disk)
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(Path.Combine(fabric.Runtime, disk + ".sock")), deadline.Token);
            await UntilAsync("in use");
            return socket;
        }

        async Task UntilAsync(string state)
        {
            while (!(await fabric.OkAsync("function", "list")).Contains(state, StringComparison.Ordinal))
                deadline.Token.ThrowIfCancellationRequested();
        }
    }

    [Fact]
    public async Task Apply_that_is_given_up_leaves_what_it_waited_for_and_the_next_one_its_turn()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        using var user = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await user.ConnectAsync(new UnixDomainSocketEndPoint(Path.Combine(fabric.Runtime, "disk0.sock")), deadline.Token);
        var next = fabric.Write("next.yaml", "adapters: [ { name: adapter0, model: merlin } ]\n");
        var apply = fabric.Start("apply", next);
        await UntilAsync("draining");
        apply.Kill();
        await apply.WaitForExitAsync(deadline.Token);
        await UntilAsync("in use");
        Assert.False(user.Poll(0, SelectMode.SelectRead));
        user.Dispose();
        await fabric.OkAsync("apply", next);
        Assert.DoesNotContain("disk0", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);

        async Task UntilAsync(string state)
        {
            while (!(await fabric.OkAsync("function", "list")).Contains(state, StringComparison.Ordinal))
                deadline.Token.ThrowIfCancellationRequested();
        }
    }

    [Fact]
    public async Task Forced_deactivation_that_is_refused_sends_nobody_away()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        await fabric.OkAsync("function", "define", "d1", "--kind", "disk", "--parent", "adapter0", "memory=1MiB");
        await fabric.OkAsync("function", "activate", "d1");
        using var user = await ConnectAsync();
        Assert.Contains("'d9'", await fabric.RefusedAsync("function", "deactivate", "d1", "d9", "--force"), StringComparison.Ordinal);
        Assert.False(user.Poll(100_000, SelectMode.SelectRead));
        var deactivate = fabric.Start("function", "deactivate", "d1");
        while (!(await fabric.OkAsync("function", "list")).Contains("draining", StringComparison.Ordinal))
            deadline.Token.ThrowIfCancellationRequested();
        Assert.False(user.Poll(100_000, SelectMode.SelectRead));
        user.Dispose();
        Assert.Equal("d1: configured\n", await deactivate.StandardOutput.ReadToEndAsync(deadline.Token));

        async Task<Socket> ConnectAsync()
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(Path.Combine(fabric.Runtime, "d1.sock")), deadline.Token);
            while (!(await fabric.OkAsync("function", "list")).Contains("in use", StringComparison.Ordinal))
                deadline.Token.ThrowIfCancellationRequested();
            return socket;
        }
    }

    [Fact]
    public async Task Function_that_did_not_come_back_says_why_until_it_does()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var image = fabric.Write("image", new string('1', 4096));
        await fabric.OkAsync("function", "define", "d1", "--kind", "disk", "--parent", "adapter0", "file=" + image);
        await fabric.OkAsync("function", "activate", "d1");
        await fabric.OkAsync("down");
        File.Delete(image);
        var why = $"Disk file '{image}' does not exist.";
        Assert.Contains($"\nFunction d1 is failed: {why}", await fabric.UpAsync(Manifest), StringComparison.Ordinal);
        Assert.StartsWith($"d1: disk at adapter0, failed\n  {why}", await fabric.OkAsync("function", "show", "d1"), StringComparison.Ordinal);
        Assert.StartsWith(why, await fabric.OkAsync("attr", "get", "/kernel/config/functions/d1/problem"), StringComparison.Ordinal);
        Assert.Contains($"The return of d1 ended early: {why}", await File.ReadAllTextAsync(Path.Combine(fabric.Runtime, "daemon.log"), TestContext.Current.CancellationToken), StringComparison.Ordinal);
        Assert.Contains("There is no device 'd1': function 'd1' is failed.", await fabric.RefusedAsync("device", "show", "d1"), StringComparison.Ordinal);

        await fabric.RefusedAsync("function", "activate", "d1");
        Assert.Contains(why, await fabric.OkAsync("function", "show", "d1"), StringComparison.Ordinal);
        fabric.Write("image", new string('2', 4096));
        await fabric.OkAsync("function", "activate", "d1");
        Assert.DoesNotContain(why, await fabric.OkAsync("function", "show", "d1"), StringComparison.Ordinal);

        // What made it is not there any more.
        await fabric.OkAsync("down");
        var up = await fabric.UpAsync("adapters: [ { name: other, model: merlin } ]\n");
        Assert.Contains("\nFunction d1 is gone: adapter0 has no driver that makes disk functions now.", up, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Function_is_named_where_a_device_is()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        await fabric.OkAsync("function", "define", "web0", "--kind", "vf", "--parent", "adapter0", "index=0", "driver=vfio-pci");
        Assert.Contains("function 'web0' is configured. Activate it first: virtbus function activate web0", await fabric.RefusedAsync("device", "show", "web0"), StringComparison.Ordinal);
        Assert.Contains("Function 'web0' is configured, so it offers no socket.", await fabric.RefusedAsync("vm", "web0", "--", "true"), StringComparison.Ordinal);
        await fabric.OkAsync("function", "activate", "web0");
        Assert.StartsWith("0000:01:00.1\n", await fabric.OkAsync("device", "show", "web0"), StringComparison.Ordinal);
        Assert.Contains("0000:01:00.1.sock", await fabric.OkAsync("socket", "list", "web0"), StringComparison.Ordinal);
        await fabric.OkAsync("driver", "override", "web0", "--clear");
        Assert.Contains("Device 'web0' offers no socket: driver merlin_core has it.", await fabric.RefusedAsync("vm", "web0", "--", "true"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_is_to_be_written_next_is_what_can_be_written()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        await fabric.OkAsync("function", "define", "d1", "--kind", "disk", "--parent", "adapter0");
        Assert.EndsWith("one of file, memory, null has to be set first. Write for example: virtbus function set d1 file=…", await fabric.RefusedAsync("function", "activate", "d1"), StringComparison.Ordinal);
        await fabric.OkAsync("function", "define", "p1", "--kind", "pci");
        Assert.EndsWith(" virtbus function set p1 host=…", await fabric.RefusedAsync("function", "activate", "p1"), StringComparison.Ordinal);
        // A path is the user's and not the daemon's.
        Assert.Contains("vfio-user 'some.sock' is not right. Write the absolute path of the socket", await fabric.RefusedAsync("function", "set", "p1", "vfio-user=some.sock"), StringComparison.Ordinal);
        Assert.Contains("\n  host: the PCI address of a function of this host", await fabric.OkAsync("function", "kinds"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Help_has_the_words_for_arguments_and_not_all_that_they_could_be()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        foreach (var group in (string[])["function", "driver", "device", "module", "attr", "socket", "power", "vf"])
        {
            var help = await fabric.OkAsync(group, "--help");
            Assert.DoesNotContain("disk0", help, StringComparison.Ordinal);
            Assert.DoesNotContain('|', help);
        }

        Assert.Contains("  show <FUNCTION> ", await fabric.OkAsync("function", "--help"), StringComparison.Ordinal);
        Assert.Contains("disk0", await fabric.OkAsync("[suggest:22]", "virtbus function show "), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Diff_ends_as_diff_does()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var same = fabric.Write("same.yaml", Manifest);
        Assert.Equal(new ProgramRun(0, "", ""), await fabric.RunAsync("diff", same));
        Assert.Equal(1, (await fabric.RunAsync("diff", fabric.Write("other.yaml", Manifest.Replace("1MiB", "2MiB", StringComparison.Ordinal)))).Code);
        foreach (var wrong in (string[])["/no/such.yaml", fabric.Write("wrong.yaml", "colour: red\n")])
            Assert.Equal(2, (await fabric.RunAsync("diff", wrong)).Code);
        Assert.Equal(2, (await fabric.RunAsync("diff")).Code);
        await fabric.OkAsync("down");
        Assert.Equal(2, (await fabric.RunAsync("diff", same)).Code);
    }

    [Fact]
    public async Task Manifest_that_asks_for_what_nobody_can_make_takes_nothing_away()
    {
        await using var fabric = new TestFabric();
        const string All = Manifest + "serials: [ { name: serial0 } ]\nfunctions: [ { name: probe0, simulated: scratch } ]\n";
        await fabric.UpAsync(All.Replace("model: merlin", "model: merlin, vfs: 2", StringComparison.Ordinal));
        await RefusedAsync(All.Replace("name: serial0", "name: serial0, driver: nosuch", StringComparison.Ordinal), "serials[0].name: Bus pci has no driver 'nosuch'");
        await RefusedAsync(All.Replace("merlin", "merlin, vfs: 2, vf_profiles: [ { vf: 1, driver: nosuch } ]", StringComparison.Ordinal), "adapters[0].vf_profiles[0].vf: Bus pci has no driver 'nosuch'");

        // What lasts on an adapter keeps the adapter.
        await fabric.OkAsync("function", "define", "d1", "--kind", "disk", "--parent", "adapter0", "memory=1MiB");
        await fabric.OkAsync("function", "activate", "d1");
        await RefusedAsync("serials: [ { name: serial0 } ]\n", "adapter adapter0 would be taken away with all that is on it, and 'd1', which was defined to last, is one of them.");
        await RefusedAsync(All.Replace("model: merlin", "model: merlin, ports: 2", StringComparison.Ordinal), "adapter adapter0 would be taken away");
        await fabric.OkAsync("function", "deactivate", "d1");
        Assert.Equal(
            "~ adapter adapter0: merlin, net, vdpa, 1 port -> merlin, net, vdpa, 2 ports, mac 02:00:00:00:00:77; made again, with all that is on it\n~ disk disk0 on adapter0: made again with adapter adapter0\n",
            string.Join('\n', (await fabric.RunAsync("diff", fabric.Write("next.yaml", All.Replace("model: merlin", "model: merlin, ports: 2, mac: \"02:00:00:00:00:77\"", StringComparison.Ordinal)))).Output.Split('\n').Where(static l => !l.Contains("virtual", StringComparison.Ordinal))));

        async Task RefusedAsync(string manifest, string message)
        {
            var before = await fabric.OkAsync("function", "list");
            var run = await fabric.RunAsync("apply", fabric.Write("next.yaml", manifest));
            Assert.Equal((1, ""), (run.Code, run.Output));
            Assert.Contains(message, run.Errors, StringComparison.Ordinal);
            Assert.Equal(before, await fabric.OkAsync("function", "list"));
        }
    }

    [Fact]
    public async Task Step_that_waited_takes_no_function_away_that_was_not_planned_for()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest + "serials: [ { name: serial0 } ]\n");
        var user = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:03:00.0.sock"));
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var apply = fabric.Start("apply", fabric.Write("next.yaml", "adapters: [ { name: adapter0, model: merlin } ]\n"));
        while (!(await fabric.OkAsync("function", "list")).Contains("draining", StringComparison.Ordinal))
            deadline.Token.ThrowIfCancellationRequested();
        // Meanwhile the name is taken by one that lasts.
        await fabric.OkAsync("function", "deactivate", "disk0");
        await fabric.OkAsync("function", "undefine", "disk0");
        await fabric.OkAsync("function", "define", "disk0", "--kind", "disk", "--parent", "adapter0", "memory=2MiB");
        await fabric.OkAsync("function", "activate", "disk0");
        user.Dispose();
        Assert.Equal(0, (await TestFabric.EndAsync(apply)).Code);
        Assert.Matches("^FUNCTION.*\ndisk0 +disk +adapter0 +active +disk0\n$", await fabric.OkAsync("function", "list"));
    }
}
