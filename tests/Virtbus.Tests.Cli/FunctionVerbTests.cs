using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Virtbus.Remote.Pci.VfioUser;

namespace Virtbus.Tests.Cli;

/// <summary>PCI functions for guests: manifest, sockets, overrides, virtual functions, and who holds a device.</summary>
public sealed class FunctionVerbTests
{
    private const string Manifest = """
        adapters:
          - name: adapter0
            model: merlin
            vfs: 2
            vf_profiles:
              - { vf: 0, mac: "06:00:00:00:aa:01", driver: vfio-pci }
        serials:
          - { name: serial0 }
        """;

    [Fact]
    public async Task Functions_of_the_manifest_are_configured_and_offered_when_the_fabric_is_up()
    {
        await using var fabric = new TestFabric();
        var up = await fabric.UpAsync(Manifest);
        Assert.Matches(@"adapter0v0 \(0000:01:00\.1\) +vfio-user +.*/0000:01:00\.1\.sock\n", up);
        Assert.Matches(@"serial0 \(0000:03:00\.0\) +vfio-user +.*/0000:03:00\.0\.sock\n", up);
        Assert.Matches(@"serial0 \(0000:03:00\.0\) +console +.*/serial0\.console\.sock\n", up);
        Assert.Matches(@"0000:01:00\.1 \(adapter0v0\) +pci +bound +vfio-pci\n", up);
        Assert.Matches(@"0000:01:00\.2 \(adapter0v1\) +pci +bound +merlin_core\n", up);
        Assert.Matches(
            @"VF +DEVICE +PROFILE +STATE +DRIVER\n0 +0000:01:00\.1 +mac 06:00:00:00:aa:01 queues [0-9]+ driver vfio-pci +bound +vfio-pci\n1 +0000:01:00\.2 +mac \S+ queues [0-9]+ +bound +merlin_core\n",
            await fabric.OkAsync("vf", "list", "adapter0"));
        Assert.Contains("There are serial0 (0000:03:00.0).", await fabric.RefusedAsync("console", "serial1"), StringComparison.Ordinal);
        Assert.Contains("driver merlin_core has it", await fabric.RefusedAsync("vm", "adapter0v1"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Virtual_functions_are_configured_before_they_are_enabled()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        Assert.Equal("0000:01:00.0: 0 virtual functions\n", await fabric.OkAsync("vf", "disable", "adapter0"));
        Assert.Matches("^mac 06:00:00:00:bb:03 queues 3 driver vfio-pci\n$", await fabric.OkAsync("vf", "set", "adapter0", "2", "--mac", "06:00:00:00:bb:03", "--queues", "3", "--driver", "vfio-pci"));
        Assert.Contains("mac 'nonsense' is not right. Write a unicast station address", await fabric.RefusedAsync("vf", "set", "adapter0", "2", "--mac", "nonsense"), StringComparison.Ordinal);
        Assert.Equal("0000:01:00.0: 3 virtual functions\n", await fabric.OkAsync("vf", "enable", "adapter0", "3"));
        Assert.Matches(@"2 +0000:01:00\.3 +mac 06:00:00:00:bb:03 queues 3 driver vfio-pci +bound +vfio-pci\n", await fabric.OkAsync("vf", "list", "adapter0"));
        Assert.Contains("has 3 virtual functions enabled, and PCI enables all at once. Disable those first: virtbus vf disable adapter0", await fabric.RefusedAsync("vf", "enable", "adapter0", "1"), StringComparison.Ordinal);
        Assert.Contains("Function 'adapter0v2' is active, and its queues can change only before that.", await fabric.RefusedAsync("vf", "set", "adapter0", "2", "--queues", "4"), StringComparison.Ordinal);
        Assert.Contains("queues '17' is not right. Write a number of queue sets from 1 to 16.", await fabric.RefusedAsync("vf", "set", "adapter0", "3", "--queues", "17"), StringComparison.Ordinal);
        await SeeUsageAsync("'third' is no number. Write for example 2.", "third", "--queues", "1");
        await SeeUsageAsync("'many' is no number. Write for example 2.", "2", "--queues", "many");
        await SeeUsageAsync("Required argument missing for option: '--mac'.", "2", "--mac");
        await SeeUsageAsync("'virtbus vf set' needs --mac, --queues or --driver.", "2");

        async Task SeeUsageAsync(string message, params string[] words)
        {
            var usage = await fabric.RunAsync(["vf", "set", "adapter0", .. words]);
            Assert.Equal((2, $"virtbus: {message}\nTry 'virtbus vf set --help'.\n"), (usage.Code, usage.Errors));
        }
        Assert.Contains("has no virtual functions", await fabric.RefusedAsync("vf", "list", "serial0"), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--virtio", "function", "plug", "nic9", "--virtio")]
    [InlineData("--host", "function", "plug", "nic9", "--host")]
    [InlineData("--driver", "function", "plug", "nic9", "--virtio", "net", "--driver")]
    [InlineData("--cpus", "vm", "disk0", "--cpus")]
    public async Task Option_without_its_value_is_the_line_s_mistake(string option, params string[] words)
    {
        await using var fabric = new TestFabric();
        var usage = await fabric.RunAsync(words);
        Assert.Equal((2, $"virtbus: Required argument missing for option: '{option}'."), (usage.Code, usage.Errors.Split('\n')[0]));
    }

    [Fact]
    public async Task Override_moves_a_function_between_its_drivers_and_suggest_names_them()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var socket = Path.Combine(fabric.Runtime, "0000:01:00.1.sock");
        Assert.True(File.Exists(socket));
        Assert.Equal("0000:01:00.1: bound to merlin_core\n", await fabric.OkAsync("driver", "override", "adapter0v0", "--clear"));
        Assert.False(File.Exists(socket));
        Assert.Matches("merlin-vfio-pci merlin_vfio_pci is made for this device: .*\nvfio-pci vfio_pci takes any PCI device", await fabric.OkAsync("attr", "get", "/bus/pci/devices/0000:01:00.1/vfio_drivers"));
        Assert.Matches("merlin-vfio-pci +merlin_vfio_pci is made for this device: .*\nvfio-pci +vfio_pci takes any PCI device", await fabric.OkAsync("driver", "suggest", "adapter0v0"));
        Assert.Equal("0000:01:00.1: bound to merlin-vfio-pci\n", await fabric.OkAsync("driver", "override", "adapter0v0", "merlin-vfio-pci"));
        Assert.True(File.Exists(socket));
        Assert.Equal("0000:01:00.1: bound to vfio-pci\n", await fabric.OkAsync("driver", "override", "adapter0v0", "vfio-pci"));
        // No other driver is made for a serial port.
        Assert.Equal("0000:03:00.0: unbound\n", await fabric.OkAsync("driver", "override", "serial0", "--clear"));
        Assert.Contains("Name a driver.", await fabric.RefusedAsync("driver", "override", "adapter0v0", "vfio_pci"), StringComparison.Ordinal);
        Assert.True(File.Exists(socket));
        Assert.Contains("'virtbus driver override 0000:03:00.0 --clear' lets the bus choose again", await fabric.RefusedAsync("driver", "override", "serial0", "merlin-vfio-pci"), StringComparison.Ordinal);
        Assert.Contains("no module 'other_driver'", await fabric.RefusedAsync("driver", "override", "serial0", "other-driver"), StringComparison.Ordinal);
        Assert.Contains("only PCI functions can be", await fabric.RefusedAsync("driver", "suggest", "merlin_core.net.0"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Unbind_names_who_has_the_device_and_waits_for_it()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var client = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:01:00.1.sock"));
        Assert.Contains($"Device 'adapter0v0' is in use: process {Environment.ProcessId} (", await fabric.RefusedAsync("vm", "adapter0v0", "--", "true"), StringComparison.Ordinal);
        var unbind = fabric.Start("driver", "unbind", "adapter0v0");
        var message = await unbind.StandardError.ReadLineAsync(deadline.Token);
        Assert.StartsWith($"virtbus: Device 0000:01:00.1 is open by process {Environment.ProcessId} (", message!, StringComparison.Ordinal);
        Assert.Contains("0000:01:00.1.sock. It is asked to let go", message!, StringComparison.Ordinal);
        // Still its user's.
        Assert.True(client.TryRead(7, 0, new byte[4], out _));
        Assert.False(unbind.HasExited);
        client.Dispose();
        Assert.Equal("0000:01:00.1: unbound\n", await unbind.StandardOutput.ReadToEndAsync(deadline.Token));
        await unbind.WaitForExitAsync(deadline.Token);
        Assert.Equal(0, unbind.ExitCode);
    }

    [Fact]
    public async Task Force_takes_a_device_away_and_ends_the_waiting_of_others()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        using var client = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:01:00.1.sock"));
        var disable = fabric.Start("vf", "disable", "adapter0");
        Assert.Contains("0000:01:00.1 is removed when it has", (await disable.StandardError.ReadLineAsync(deadline.Token))!, StringComparison.Ordinal);
        await fabric.RunAsync("driver", "unbind", "adapter0v0", "--force");
        await disable.WaitForExitAsync(deadline.Token);
        Assert.Equal((0, "0000:01:00.0: 0 virtual functions\n"), (disable.ExitCode, await disable.StandardOutput.ReadToEndAsync(deadline.Token)));
        Assert.False(client.TryRead(7, 0, new byte[4], out _));
    }

    [Fact]
    public async Task Whatever_takes_a_device_away_names_who_has_it()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        // The virtual functions go with the adapter's driver, and all of a driver's devices with its module.
        await SeeWaitingAsync("0000:01:00.1", ["driver", "unbind", "adapter0"], "0000:01:00.0: unbound\n");
        await SeeWaitingAsync("0000:03:00.0", ["module", "unload", "vfio_pci", "--force"], "vfio_pci: unloaded");

        async Task SeeWaitingAsync(string function, string[] command, string end)
        {
            using var deadline = new CancellationTokenSource(TestFabric.Deadline);
            using var client = VfioUserClient.Connect(Path.Combine(fabric.Runtime, function + ".sock"));
            var waiting = fabric.Start(command);
            var message = await waiting.StandardError.ReadLineAsync(deadline.Token);
            Assert.StartsWith($"virtbus: Device {function} is open by process {Environment.ProcessId} (", message!, StringComparison.Ordinal);
            Assert.Contains($"'virtbus driver unbind {function} --force'", message!, StringComparison.Ordinal);
            client.Dispose();
            var run = await TestFabric.EndAsync(waiting);
            Assert.StartsWith(end, run.Output, StringComparison.Ordinal);
            Assert.Equal(0, run.Code);
        }
    }

    [Fact]
    public async Task Fabric_goes_down_in_order_under_an_open_device()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        using var client = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:01:00.1.sock"));
        using var port = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:03:00.0.sock"));
        Assert.Matches("^Fabric of process [0-9]+ down in [0-9]+ ms\\.\n$", await fabric.OkAsync("down"));
        Assert.Equal(["daemon.log", "lock"], Directory.GetFileSystemEntries(fabric.Runtime).Select(Path.GetFileName).Order(StringComparer.Ordinal));
    }

    [Fact]
    public async Task Fabric_goes_down_in_order_while_an_unbind_waits_for_a_user_who_does_not_let_go()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        using var client = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:01:00.1.sock"));
        var unbind = fabric.Start("driver", "unbind", "adapter0v0");
        Assert.Contains("It is asked to let go", (await unbind.StandardError.ReadLineAsync(deadline.Token))!, StringComparison.Ordinal);
        Assert.Matches("^Fabric of process [0-9]+ down in [0-9]+ ms\\.\n$", await fabric.OkAsync("down"));
        await unbind.WaitForExitAsync(deadline.Token);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Plug_that_waits_for_its_server_is_cancelled_by_unplug_or_by_its_end(bool isKilled)
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}");
        // Who listens and says nothing.
        using var silent = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        var path = Path.Combine(fabric.Runtime, "silent.sock");
        silent.Bind(new UnixDomainSocketEndPoint(path));
        silent.Listen();
        var plug = fabric.Start("function", "plug", "remote0", "--vfio-user", path);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        using var connection = await silent.AcceptAsync(deadline.Token);
        Assert.Matches($@"remote0 +pci +configured *\n", await fabric.OkAsync("function", "list"));
        Assert.Contains("There is no device 'remote1'", await fabric.RefusedAsync("function", "unplug", "remote1"), StringComparison.Ordinal);
        if (isKilled)
        {
            plug.Kill();
            // The daemon hangs up: what came before is the greeting.
            var greeting = new byte[4096];
            while (await connection.ReceiveAsync(greeting, deadline.Token) > 0)
            {
            }
        }
        else
        {
            Assert.Equal("remote0: plug cancelled\n", await fabric.OkAsync("function", "unplug", "remote0"));
            var end = await TestFabric.EndAsync(plug);
            Assert.NotEqual(0, end.Code);
            Assert.Contains("was cancelled", end.Errors, StringComparison.Ordinal);
        }

        Assert.Contains("There is no device 'remote0'", await fabric.RefusedAsync("function", "unplug", "remote0"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Function_that_lasts_and_whose_server_hangs_does_not_hold_up()
    {
        await using var fabric = new TestFabric();
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        foreach (var folder in (string[])[fabric.Runtime, Path.Combine(fabric.Runtime, "state")])
            Directory.CreateDirectory(folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        using var silent = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        var path = Path.Combine(Path.GetDirectoryName(fabric.Runtime)!, "silent.sock");
        silent.Bind(new UnixDomainSocketEndPoint(path));
        silent.Listen();
        Keep("remote0", path, 0);
        Keep("remote1", path + ".none", 1);
        var since = Environment.TickCount64;
        await fabric.UpAsync("serials: [ { name: serial0 } ]\n");
        // A server has 30 s to greet.
        Assert.InRange(Environment.TickCount64 - since, 0, 20_000);
        using var connection = await silent.AcceptAsync(deadline.Token);
        var list = await fabric.OkAsync("function", "list");
        Assert.Matches("remote0 +pci +coming *\n", list);
        Assert.Matches("remote1 +pci +failed *\n", list);
        Assert.Matches($"\nremote1: .*{path}.none", list);
        Assert.Matches("serial0 +serial +active", list);
        Assert.Contains("silent.sock.none", await fabric.OkAsync("function", "show", "remote1"), StringComparison.Ordinal);
        // Nor does it hold up who changes something else.
        await fabric.OkAsync("apply", fabric.Write("next.yaml", "serials: [ { name: serial1 } ]\n"));
        Assert.Matches("remote0 +pci +coming *\n", await fabric.OkAsync("function", "list"));
        // The server goes: it has failed, too.
        connection.Dispose();
        while (!(await fabric.OkAsync("function", "list")).Contains("remote0: ", StringComparison.Ordinal))
            deadline.Token.ThrowIfCancellationRequested();
        Assert.Equal("remote0: configured\nremote1: configured\n", await fabric.OkAsync("function", "deactivate", "remote0", "remote1"));
        Assert.DoesNotContain("remote0: ", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);

        void Keep(string name, string server, int order) => File.WriteAllText(
            Path.Combine(fabric.Runtime, "state", name + ".json"),
            $$"""{"name":"{{name}}","kind":"pci","values":{"vfio-user":"{{server}}"},"isActive":true,"order":{{order}}}""");
    }

    [Fact]
    public async Task Request_for_several_functions_that_one_refuses_does_nothing()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("adapters: [ { name: adapter0, model: merlin, vfs: 2, vf_profiles: [ { vf: 0, driver: vfio-pci } ] } ]\n");
        await fabric.OkAsync("function", "define", "one", "--kind", "pci", "simulated=scratch");
        await fabric.OkAsync("function", "define", "two", "--kind", "pci", "simulated=scratch");
        await fabric.OkAsync("function", "activate", "two");
        using var client = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:01:00.1.sock"));
        // Whoever has one open keeps it.
        Assert.Contains(
            "The virtual functions of 0000:01:00.0 go together, and adapter0v1 would stay.",
            await fabric.RefusedAsync("function", "deactivate", "two", "adapter0v0", "--force"), StringComparison.Ordinal);
        var waiting = await fabric.RunAsync("function", "deactivate", "adapter0v0");
        Assert.DoesNotContain("asked to let go", waiting.Errors, StringComparison.Ordinal);
        Assert.True(client.TryRead(7, 0, new byte[4], out _));
        Assert.Contains("'one' is not active", await fabric.RefusedAsync("function", "deactivate", "two", "one"), StringComparison.Ordinal);
        Assert.Contains("Function 'two' is active", await fabric.RefusedAsync("function", "undefine", "one", "two"), StringComparison.Ordinal);
        Assert.Matches("adapter0v0 +vf +adapter0 +in use", await fabric.OkAsync("function", "list"));
        Assert.Matches("two +pci +active", await fabric.OkAsync("function", "list"));
        Assert.Equal("adapter0v0: configured\nadapter0v1: configured\ntwo: configured\n", await fabric.OkAsync("function", "deactivate", "adapter0v0", "adapter0v1", "two", "--force"));
        Assert.Equal("one: undefined\ntwo: undefined\n", await fabric.OkAsync("function", "undefine", "one", "two"));
    }

    [Fact]
    public async Task Functions_are_plugged_in_and_out_while_the_fabric_runs()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest + "\nfunctions:\n  - { name: probe0, simulated: scratch, driver: scratch-vfio-pci }\n");
        Assert.Matches("PROVIDER +FUNCTIONS\nhost +.+\nsimulated +scratch\nvfio-user +any that you name\n", await fabric.OkAsync("function", "sources"));
        Assert.StartsWith("""[{"provider":"host","functions":[""", await fabric.OkAsync("function", "sources", "-j"), StringComparison.Ordinal);
        Assert.Matches("driver +scratch-vfio-pci\n", await fabric.OkAsync("device", "show", "probe0"));
        Assert.Equal("0000:07:00.0: unbound\n", await fabric.OkAsync("function", "plug", "probe1", "--simulated", "scratch"));
        Assert.Contains("A function 'probe1' is defined already", await fabric.RefusedAsync("function", "plug", "probe1", "--simulated", "scratch"), StringComparison.Ordinal);
        Assert.Contains("'other' is no kind", await fabric.RefusedAsync("function", "plug", "probe2", "--simulated", "other"), StringComparison.Ordinal);
        Assert.Contains("This host", await fabric.RefusedAsync("function", "plug", "probe2", "--host", "ffff:ff:1f.7"), StringComparison.Ordinal);
        Assert.Contains("Nobody can be reached", await fabric.RefusedAsync("function", "plug", "probe2", "--vfio-user", "no.sock"), StringComparison.Ordinal);
        Assert.Contains("is a virtual function", await fabric.RefusedAsync("function", "unplug", "adapter0v0"), StringComparison.Ordinal);
        Assert.Contains("is no PCI function", await fabric.RefusedAsync("function", "unplug", "merlin_core.net.0"), StringComparison.Ordinal);
        Assert.Equal("0000:07:00.0: unplugged\n", await fabric.OkAsync("function", "unplug", "probe1", "--surprise"));
        Assert.Contains("There is no device 'probe1'", await fabric.RefusedAsync("device", "show", "probe1"), StringComparison.Ordinal);
        // Its user is asked first.
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var client = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:05:00.0.sock"));
        var unplug = fabric.Start("function", "unplug", "probe0");
        Assert.Contains("0000:05:00.0 is unplugged when it has", (await unplug.StandardError.ReadLineAsync(deadline.Token))!, StringComparison.Ordinal);
        client.Dispose();
        await unplug.WaitForExitAsync(deadline.Token);
        Assert.Equal((0, "0000:05:00.0: unplugged\n"), (unplug.ExitCode, await unplug.StandardOutput.ReadToEndAsync(deadline.Token)));
    }

    [Fact]
    public async Task Function_of_another_fabric_has_its_usual_driver_and_goes_back_when_it_is_asked_for()
    {
        await using var owner = new TestFabric();
        await using var user = new TestFabric();
        await owner.UpAsync(Manifest);
        var socket = Path.Combine(owner.Runtime, "0000:01:00.1.sock");
        await user.UpAsync($"functions:\n  - {{ name: remote0, vfio_user: {socket}, driver: merlin_core }}\n");
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        Assert.Equal("06:00:00:00:aa:01\n", await user.OkAsync("attr", "get", "/class/net/remote0np0/address"));
        var monitor = user.Start("monitor", "--history");
        // The owner wants it back: the user's part of it goes, and the unbind is done.
        var unbind = owner.Start("driver", "unbind", "adapter0v0");
        await unbind.WaitForExitAsync(deadline.Token);
        Assert.Equal((0, "0000:01:00.1: unbound\n"), (unbind.ExitCode, await unbind.StandardOutput.ReadToEndAsync(deadline.Token)));
        await ReadUntilRemovedAsync();
        Assert.Contains("There is no device 'remote0'", await user.RefusedAsync("device", "show", "remote0"), StringComparison.Ordinal);
        // And it can be had again, until its fabric goes down.
        await owner.OkAsync("driver", "override", "adapter0v0", "vfio-pci");
        Assert.Equal("0000:01:00.0: bound to merlin_core\n", await user.OkAsync("function", "plug", "remote0", "--vfio-user", socket));
        Assert.Matches("^Fabric of process [0-9]+ down in [0-9]+ ms\\.\n$", await owner.OkAsync("down"));
        await ReadUntilRemovedAsync();

        async Task ReadUntilRemovedAsync()
        {
            while (!(await monitor.StandardOutput.ReadLineAsync(deadline.Token))!.Contains($" remove  {TestFabric.AdapterPath} ", StringComparison.Ordinal))
            {
            }
        }
    }

    [Fact]
    public async Task Lspci_reads_every_function_of_the_default_fabric()
    {
        await using var fabric = new TestFabric();
        await fabric.OkAsync("up", "--detach");
        var folder = JsonDocument.Parse(await fabric.OkAsync("attr", "get", "/bus/pci/devices", "-j")).RootElement.GetProperty("entries");
        var functions = folder.EnumerateArray().Select(e => e.GetProperty("name").GetString()!).ToArray();
        Assert.Equal(8, functions.Length);
        var dump = new StringBuilder();
        foreach (var function in functions)
            dump.Append(await fabric.OkAsync("attr", "get", $"/bus/pci/devices/{function}/config")).Append('\n');
        string[] script = ["-c", "PATH=$PATH:/usr/sbin:/sbin; exec lspci -nn -vvv -xxxx -F \"$0\" 2>/dev/null", fabric.Write("dump", dump.ToString())];
        using var process = Process.Start(new ProcessStartInfo("sh", script) { RedirectStandardOutput = true, UseShellExecute = false })!;
        var text = await process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.EndsAsync();
        if (process.ExitCode == 127)
            Assert.Skip("no 'lspci' on this host: config spaces are not read by it. Install it with: apt-get install pciutils");
        Assert.Equal(0, process.ExitCode);
        Assert.Equal(functions.Length, Regex.Count(text, @"^[0-9a-f:.]+ .*\[[0-9a-f]{4}\]: .*\[[0-9a-f]{4}:[0-9a-f]{4}\]", RegexOptions.Multiline));
        Assert.DoesNotContain("<?>", text, StringComparison.Ordinal);
        Assert.DoesNotContain("unknown", text, StringComparison.OrdinalIgnoreCase);
        Assert.DoesNotContain("invalid", text, StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public async Task Status_tells_which_sockets_are_connected()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        using var client = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:03:00.0.sock"));
        using var http = new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = async (_, cancellation) =>
            {
                var socket = new System.Net.Sockets.Socket(System.Net.Sockets.AddressFamily.Unix, System.Net.Sockets.SocketType.Stream, System.Net.Sockets.ProtocolType.Unspecified);
                await socket.ConnectAsync(new System.Net.Sockets.UnixDomainSocketEndPoint(fabric.ControlSocket), cancellation);
                return new System.Net.Sockets.NetworkStream(socket, ownsSocket: true);
            },
        });
        var status = JsonDocument.Parse(await http.GetStringAsync(new Uri("http://virtbus/v1/status"), TestContext.Current.CancellationToken));
        var sockets = status.RootElement.GetProperty("sockets").EnumerateArray()
            .Select(s => (s.GetProperty("device").GetString(), s.GetProperty("protocol").GetString(), s.GetProperty("address").GetString(), s.GetProperty("connected").GetBoolean()));
        Assert.Equal(
            [("adapter0v0", "vfio-user", "0000:01:00.1", false), ("serial0", "vfio-user", "0000:03:00.0", true), ("serial0", "console", "0000:03:00.0", false)],
            sockets);
    }
}
