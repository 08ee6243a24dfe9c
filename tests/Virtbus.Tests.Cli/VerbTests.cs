using System.Text.Json;

namespace Virtbus.Tests.Cli;

public sealed class VerbTests(VerbTests.RunningFabric running) : IClassFixture<VerbTests.RunningFabric>
{
    private static readonly string[] Verbs =
    [
        "up", "down", "status", "socket", "socket list", "tree", "device", "device list", "device show", "driver", "driver list", "driver bind", "driver unbind", "driver override", "driver suggest", "vf", "vf list", "vf set", "vf enable", "vf disable", "bus", "bus list", "module",
        "module list", "module load", "module unload", "attr", "attr get", "attr set", "monitor", "power", "power suspend", "power resume", "vm", "console", "completion", "manifest", "manifest check", "diff", "apply", "export", "function", "function plug",
    ];

    private readonly TestFabric _fabric = running.Fabric;

    public sealed class RunningFabric : IAsyncLifetime
    {
        public TestFabric Fabric { get; } = new();

        public async ValueTask InitializeAsync() => await Fabric.UpAsync(TestFabric.DemoManifest, "verbs");

        public ValueTask DisposeAsync() => Fabric.DisposeAsync();
    }

    [Fact]
    public async Task Every_verb_has_help()
    {
        Assert.Contains("Commands:", await _fabric.OkAsync("--help"), StringComparison.Ordinal);
        foreach (var verb in Verbs)
        {
            var help = await _fabric.OkAsync([.. verb.Split(' '), "--help"]);
            Assert.Contains($"virtbus {verb}", help, StringComparison.Ordinal);
            Assert.Contains("-j, --json", help, StringComparison.Ordinal);
            Assert.Contains("-p, --pretty", help, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("tree")]
    [InlineData("device list")]
    [InlineData("device show demo.part.0")]
    [InlineData("driver list")]
    [InlineData("bus list")]
    [InlineData("module list")]
    [InlineData("attr get /bus")]
    [InlineData("attr get /bus/auxiliary/drivers_autoprobe")]
    [InlineData("attr set /bus/auxiliary/drivers_autoprobe 1")]
    [InlineData("completion bash")]
    public async Task Json_is_one_line_and_pretty_json_says_the_same(string line)
    {
        var verb = line.Split(' ');
        var json = await _fabric.OkAsync([.. verb, "-j"]);
        var pretty = await _fabric.OkAsync(["-jp", .. verb]);
        Assert.Equal(1, json.Count(c => c == '\n'));
        Assert.True(pretty.Count(c => c == '\n') > 1);
        Assert.True(JsonElement.DeepEquals(JsonDocument.Parse(json).RootElement, JsonDocument.Parse(pretty).RootElement));
    }

    [Fact]
    public async Task Json_in_lines_is_json()
    {
        var pretty = await _fabric.OkAsync("-jp", "bus", "list");
        Assert.Equal(pretty, await _fabric.OkAsync("bus", "list", "-p"));
        Assert.Equal(pretty, await _fabric.OkAsync("--pretty", "bus", "list"));
    }

    [Theory]
    [InlineData("/h")]
    [InlineData("/?")]
    [InlineData("-?")]
    public async Task Words_that_mean_help_elsewhere_are_words(string word)
    {
        var read = await _fabric.RunAsync("attr", "get", word);
        Assert.Equal((word[0] == '/' ? 1 : 2, ""), (read.Code, read.Output));
        Assert.Contains(word[0] == '/' ? $"'{word[1..]}' does not exist in /." : $"does not take '{word}'", read.Errors, StringComparison.Ordinal);
        var run = await _fabric.RunAsync("tree", word);
        Assert.Equal((2, ""), (run.Code, run.Output));
        Assert.Contains($"'virtbus tree' does not take '{word}'.", run.Errors, StringComparison.Ordinal);
        Assert.Contains("Usage:", await _fabric.OkAsync("tree", "-h"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Word_that_means_a_file_of_words_elsewhere_is_a_word()
    {
        var run = await _fabric.RunAsync("device", "show", "@lan0");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.Contains("'@lan0'", run.Errors, StringComparison.Ordinal);
        run = await _fabric.RunAsync("attr", "get", "@/etc/passwd");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.DoesNotContain("root", run.Errors, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("tre", "'tre' is no verb of 'virtbus'. Did you mean 'tree'?")]
    [InlineData("module unlod x", "'unlod' is no verb of 'virtbus module'. Did you mean 'unload'?")]
    [InlineData("vm x --print --prepare", "takes one of --print and --prepare")]
    [InlineData("vm x --print -- ls", "'virtbus vm --print' takes no command")]
    [InlineData("device", "Required command")]
    [InlineData("device show", "'DEVICE' missing")]
    [InlineData("tree more", "'virtbus tree' does not take 'more'.")]
    [InlineData("completion tcsh", "'tcsh'")]
    [InlineData("up --detatch", "'virtbus up' does not take '--detatch'. Did you mean '--detach'?")]
    public async Task Wrong_usage_ends_with_2(string line, string says)
    {
        var run = await _fabric.RunAsync(line.Split(' '));
        Assert.Equal((2, ""), (run.Code, run.Output));
        Assert.StartsWith("virtbus: ", run.Errors, StringComparison.Ordinal);
        Assert.Contains(says, run.Errors, StringComparison.Ordinal);
        Assert.Contains("--help", run.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Tree_shows_states_and_drivers()
    {
        var tree = await _fabric.OkAsync("tree");
        Assert.Matches("├─ demo\\.part\\.0 +auxiliary +bound +cli_demo\\.part\n", tree);
        Assert.Matches("demo\\.bad\\.0 +auxiliary +unbound\n", tree);
        Assert.Matches("demo\\.later\\.0 +auxiliary +deferred: .*the clock is missing", tree);
    }

    [Fact]
    public async Task A_part_is_unbound_and_bound_again()
    {
        Assert.Equal("demo.part.1: unbound\n", await _fabric.OkAsync("driver", "unbind", "demo.part.1"));
        Assert.Contains("Device demo.part.1 has no driver.", await _fabric.RefusedAsync("driver", "unbind", "demo.part.1"), StringComparison.Ordinal);
        Assert.Contains("no entry of its id table matches", await _fabric.RefusedAsync("driver", "bind", "auxiliary:demo.part.1", "cli_demo.bad"), StringComparison.Ordinal);
        Assert.Contains("Bus auxiliary has no driver 'nobody'. 'virtbus driver list' and", await _fabric.RefusedAsync("driver", "bind", "demo.part.1", "nobody"), StringComparison.Ordinal);
        var bound = JsonDocument.Parse(await _fabric.OkAsync("-j", "driver", "bind", "demo.part.1", "cli_demo.part")).RootElement;
        Assert.Equal(("bound", "cli_demo.part", "cli_demo"), (bound.GetProperty("state").GetString(), bound.GetProperty("driver").GetString(), bound.GetProperty("module").GetString()));
        Assert.Contains("is bound to cli_demo.part. Unbind it first.", await _fabric.RefusedAsync("driver", "bind", "demo.part.1", "cli_demo.part"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Binding_that_fails_says_why()
    {
        Assert.Equal("virtbus: Probe of demo.bad.0 by cli_demo.bad failed: the part does not answer.", await _fabric.RefusedAsync("driver", "bind", "demo.bad.0", "cli_demo.bad"));
        Assert.Contains("the clock is missing", await _fabric.RefusedAsync("driver", "bind", "demo.later.0", "cli_demo.later"), StringComparison.Ordinal);
        Assert.Contains("is on no bus", await _fabric.RefusedAsync("driver", "bind", "pci0000:00", "cli_demo.part"), StringComparison.Ordinal);
        Assert.Equal("virtbus: There is no device 'demo.part.7'. Did you mean 'demo.part.0'? 'virtbus device list' names those there are.", await _fabric.RefusedAsync("device", "show", "demo.part.7"));
    }

    [Theory]
    [InlineData("device show demo.prt.0", "There is no device 'demo.prt.0'. Did you mean 'demo.part.0'?")]
    [InlineData("power suspend adaptr0", "There is no device 'adaptr0'. Did you mean 'adapter0'?")]
    [InlineData("driver bind demo.part.0 cli_demo.prat", "Bus auxiliary has no driver 'cli_demo.prat'. Did you mean 'cli_demo.part'?")]
    [InlineData("driver bind demo.part.0 merlin_core", "Bus auxiliary has no driver 'merlin_core'. It is a driver of bus pci.")]
    [InlineData("driver bind adapter0 vfio-pci", "Bus pci has no driver 'vfio-pci'. Did you mean 'vfio-pci'? 'virtbus driver override 0000:01:00.0 vfio-pci' loads a module for it.")]
    [InlineData("driver override adapter0 vfio-pcy", "Bus pci has no driver 'vfio-pcy', and there is no module 'vfio_pcy' that could bring it. Did you mean 'vfio-pci'?")]
    [InlineData("module load vfio_pcy", "Did you mean 'vfio_pci'? 'virtbus module list' names those there are.")]
    [InlineData("module unload cli-dmo", "Module cli-dmo is not loaded. Did you mean 'cli_demo'? 'virtbus module list' names the loaded ones.")]
    [InlineData("function plug x --simulated skratch", "'skratch' is no kind of simulated function. Did you mean 'scratch'?")]
    [InlineData("function define x --kind pcy", "nothing makes functions of kind 'pcy'. Did you mean 'pci'?")]
    [InlineData("function define x --kind vf --parent adaptr0", "Did you mean 'adapter0'?")]
    [InlineData("function define x --kind pci simulatd=scratch", "Function 'x' can't have 'simulatd'. Did you mean 'simulated'?")]
    [InlineData("attr get /bus/auxilary", "'auxilary' does not exist in /bus. Did you mean 'auxiliary'?")]
    public async Task Names_that_are_nearly_right_are_told(string line, string says) =>
        Assert.Contains(says, await _fabric.RefusedAsync(line.Split(' ')), StringComparison.Ordinal);

    [Theory]
    [InlineData("vf set adapter0 300 --queues 1", "Virtual function of adapter0: '300' is not right.")]
    [InlineData("vf set adapter0 0 --queues 99", "Virtual function 0 of adapter0: queues '99' is not right.")]
    [InlineData("vf set adapter0 0 --mac x", "Virtual function 0 of adapter0: mac 'x' is not right.")]
    public async Task Messages_speak_of_what_was_typed(string line, string says) =>
        Assert.Equal(says, string.Join('.', (await _fabric.RefusedAsync(line.Split(' ')))["virtbus: ".Length..].Split('.')[..1]) + ".");

    [Fact]
    public async Task Attributes_are_read_listed_and_written()
    {
        Assert.Equal("auxiliary:demo.part\n", await _fabric.OkAsync("attr", "get", "/bus/auxiliary/devices/demo.part.0/modalias"));
        var listed = await _fabric.OkAsync("attr", "get", "/bus/auxiliary/devices/demo.part.0");
        Assert.Matches(@"\ndriver -> (\.\./){2,}bus/auxiliary/drivers/cli_demo\.part\n", "\n" + listed);
        Assert.Contains("power/\n", listed, StringComparison.Ordinal);
        Assert.Equal("", await _fabric.OkAsync("attr", "set", "/bus/vdpa/drivers_autoprobe", "0"));
        Assert.Equal("0\n", await _fabric.OkAsync("attr", "get", "/bus/vdpa/drivers_autoprobe"));
        var piped = await _fabric.RunWithInputAsync("1\n", "attr", "set", "/bus/vdpa/drivers_autoprobe");
        Assert.Equal((0, "", ""), (piped.Code, piped.Output, piped.Errors));
        Assert.Equal("1\n", await _fabric.OkAsync("attr", "get", "/bus/vdpa/drivers_autoprobe"));
    }

    [Theory]
    [InlineData("get /nowhere", "'nowhere' does not exist in /.")]
    [InlineData("get /bus/auxiliary/drivers_autoprobe/x", "is not a directory")]
    [InlineData("get /bus/auxiliary/drivers_probe", "is write-only")]
    [InlineData("set " + TestFabric.AdapterPath + " 1", "is a directory. Name an attribute in it.")]
    [InlineData("set /bus/auxiliary/devices/demo.part.0/modalias x", "is read-only; 'x' was not written.")]
    [InlineData("set /bus/auxiliary/drivers_autoprobe -1", "'-1' is not a truth value. Write 0 or 1.")]
    [InlineData("set /bus/auxiliary/drivers_autoprobe maybe", "'maybe' is not a truth value. Write 0 or 1.")]
    public async Task Refused_attributes_say_what_is_right(string line, string says) =>
        Assert.Contains(says, await _fabric.RefusedAsync(["attr", .. line.Split(' ')]), StringComparison.Ordinal);

    [Fact]
    public async Task Values_too_long_are_refused_and_not_cut()
    {
        var path = "/bus/auxiliary/devices/demo.part.0/driver_override";
        var run = await _fabric.RunWithInputAsync(new string('x', 5000), "attr", "set", path);
        Assert.Equal(1, run.Code);
        Assert.Contains("A write takes at most", run.Errors, StringComparison.Ordinal);
        run = await _fabric.RunWithInputAsync(new string('x', 100_000), "attr", "set", path);
        Assert.Equal(1, run.Code);
        Assert.Contains("Standard input has more than", run.Errors, StringComparison.Ordinal);
        Assert.Equal("(null)\n", await _fabric.OkAsync("attr", "get", path));
    }

    [Fact]
    public async Task Power_goes_down_and_up_again()
    {
        Assert.Equal("0000:01:00.0: bound to merlin_core, suspended\n", await _fabric.OkAsync("power", "suspend", "adapter0"));
        Assert.Equal("suspended\n", await _fabric.OkAsync("attr", "get", TestFabric.AdapterPath + "/demo.part.0/power/state"));
        Assert.Contains("can't resume while 0000:01:00.0, which it needs, is suspended", await _fabric.RefusedAsync("power", "resume", "demo.part.0"), StringComparison.Ordinal);
        await _fabric.OkAsync("power", "resume", "adapter0");
        Assert.Equal("on\n", await _fabric.OkAsync("attr", "get", TestFabric.AdapterPath + "/demo.part.0/power/state"));
    }

    [Fact]
    public async Task Vm_needs_a_device_with_a_socket() =>
        Assert.Equal(
            "virtbus: No device 'demo.part.0' offers a socket. No device of this fabric does; add a disk or a serial port to the manifest.",
            await _fabric.RefusedAsync("vm", "demo.part.0", "--", "ls", "-j"));

    [Fact]
    public async Task Device_and_driver_in_the_wrong_order_are_told_apart() =>
        Assert.Equal(
            "virtbus: 'cli_demo.part' is a driver, not a device. The device comes first, then the driver.",
            await _fabric.RefusedAsync("driver", "bind", "cli_demo.part", "demo.part.0"));

    [Fact]
    public async Task Completion_knows_verbs_options_and_names_of_the_fabric()
    {
        async Task<string[]> At(string line) => (await _fabric.OkAsync($"[suggest:{line.Length}]", line)).Split('\n', StringSplitOptions.RemoveEmptyEntries);

        Assert.Contains("driver", await At("virtbus d"));
        Assert.Contains("--detach", await At("virtbus up --"));
        Assert.Equal(["demo.part.0", "demo.part.1"], await At("virtbus driver unbind demo.p"));
        Assert.Contains("cli_demo.part", await At("virtbus driver bind demo.part.0 "));
        Assert.Contains("cli_demo", await At("virtbus module unload "));
        Assert.Equal(["/bus/auxiliary/drivers_autoprobe"], await At("virtbus attr get /bus/auxiliary/drivers_a"));
        foreach (var shell in new[] { "bash", "zsh", "fish" })
            Assert.Contains("[complete]", await _fabric.OkAsync("completion", shell), StringComparison.Ordinal);
    }
}
