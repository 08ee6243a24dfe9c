
namespace Virtbus.Tests.Cli;

/// <summary>The device model of samples/tutorial/tally_card: built outside of the tree, plugged, driven, unloaded and loaded again.</summary>
public sealed class TallyCardTests
{
    // A compiler beside all other tests, on a host that has more to do.
    private static readonly TimeSpan TimeToBuild = TimeSpan.FromMinutes(5);

    private const string Provider = "/bus/pci/providers/tally";
    private static string Manifest(string folder) => $$"""
        modules: [{{folder}}, tally_card]
        functions:
          - { name: tally0, provider: tally, function: card }
        """;

    [Fact]
    public async Task Card_is_built_outside_of_the_tree_and_counts()
    {
        await using var fabric = new TestFabric();
        var folder = Path.GetDirectoryName(fabric.Write("here", ""))!;
        var project = Directory.CreateDirectory(Path.Combine(folder, "card")).FullName;
        foreach (var file in Directory.EnumerateFiles(Path.Combine(DocsExampleTests.Root(), "samples/tutorial/tally_card")))
            File.Copy(file, Path.Combine(project, Path.GetFileName(file)));
        // The tree is built already, and other tests are running from it. A server that stays behind would keep the output open.
        var build = await TestFabric.EndAsync(fabric.StartProgram(
            "dotnet", "build", project, "-c", "Release", "--no-dependencies", $"-p:Virtbus={DocsExampleTests.Root()}", "-o", Path.Combine(folder, "modules"), "--nologo", "-v", "quiet", "-nodeReuse:false", "-p:UseSharedCompilation=false"), within: TimeToBuild);
        Assert.True(build.Code == 0, build.Output + build.Errors);
        await fabric.UpAsync(Manifest(Path.Combine(folder, "modules")));
        var device = await CheckDevice(fabric, "tally0");
        await fabric.OkAsync("attr", "set", device + "/limit", "10");
        await fabric.OkAsync("attr", "set", device + "/tally", "7");
        Assert.Equal("0\n", await fabric.OkAsync("attr", "get", device + "/alarms"));
        await fabric.OkAsync("attr", "set", device + "/tally", "7");
        Assert.Equal(("14\n", "1\n"), (await fabric.OkAsync("attr", "get", device + "/tally"), await fabric.OkAsync("attr", "get", device + "/alarms")));
        Assert.Contains("- { name: tally0, provider: tally, function: card }\n", await fabric.OkAsync("export"), StringComparison.Ordinal);
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("again.yaml", await fabric.OkAsync("export"))));
    }

    [Fact]
    public async Task Provider_goes_with_its_module_when_nothing_of_it_is_used_and_comes_back()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync($"modules: {TestFabric.TutorialModules}");
        Assert.Contains("'tally' does not exist", await fabric.RefusedAsync("attr", "get", Provider), StringComparison.Ordinal);
        for (var round = 0; round < 2; round++)
        {
            Assert.Equal("tally_card: loaded, drivers tally_card\n", await fabric.OkAsync("module", "load", "tally_card"));
            Assert.Equal("card\n", await fabric.OkAsync("attr", "get", Provider));
            Assert.EndsWith(": bound to tally_card\n", await fabric.OkAsync("function", "plug", "tally0", "--provider", "tally", "--function", "card"), StringComparison.Ordinal);
            // By force or not: the hardware is the module's, and not only its driver.
            foreach (string[] force in (string[][])[["--force"], []])
            {
                if (force.Length == 0)
                    await fabric.OkAsync("driver", "unbind", "tally0");
                Assert.Equal(
                    "virtbus: Function 'tally0' of provider 'tally' is plugged in. Unplug it first: virtbus function unplug tally0",
                    await fabric.RefusedAsync(["module", "unload", "tally_card", .. force]));
                Assert.Equal("card\n", await fabric.OkAsync("attr", "get", Provider));
            }

            await fabric.OkAsync("function", "unplug", "tally0");
            await fabric.OkAsync("function", "define", "later", "--kind", "pci", "--transient", "tally=card");
            Assert.Equal(
                "virtbus: Function 'later' of provider 'tally' is defined. Undefine it first: virtbus function undefine later",
                await fabric.RefusedAsync("module", "unload", "tally_card"));
            await fabric.OkAsync("function", "undefine", "later");
            // Collected, too: else the verb would say that something refers to it still.
            Assert.Equal("tally_card: unloaded\n", await fabric.OkAsync("module", "unload", "tally_card"));
            Assert.Contains("'tally' does not exist", await fabric.RefusedAsync("attr", "get", Provider), StringComparison.Ordinal);
            Assert.Contains("can't have 'tally'", await fabric.RefusedAsync("function", "define", "x", "--kind", "pci", "tally=card"), StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task Modules_of_a_manifest_are_loaded_at_start_and_when_it_is_applied()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync($"modules: [{TestFabric.TutorialModules}, bench_counter]");
        Assert.Contains("bench_counter", await fabric.OkAsync("attr", "get", "/module"), StringComparison.Ordinal);
        var next = fabric.Write("next.yaml", Manifest(TestFabric.TutorialModules));
        Assert.Equal("+ module tally_card\n+ function tally0 (tally card)\n2 changes done.\n", await fabric.OkAsync("apply", next));
        await CheckDevice(fabric, "tally0");
        Assert.Equal("", await fabric.OkAsync("diff", next));
        await fabric.OkAsync("down");
        await fabric.OkAsync("up", next, "--detach");
        await CheckDevice(fabric, "tally0");
    }

    [Fact]
    public async Task Function_that_lasts_comes_back_when_its_module_is_loaded()
    {
        await using var fabric = new TestFabric();
        var manifest = $"modules: [{TestFabric.TutorialModules}]";
        await fabric.UpAsync(manifest);
        await fabric.OkAsync("module", "load", "tally_card");
        await fabric.OkAsync("function", "define", "tally0", "--kind", "pci", "tally=card");
        await fabric.OkAsync("function", "activate", "tally0");
        await fabric.OkAsync("down");
        await fabric.UpAsync(manifest);
        Assert.Contains("can't have 'tally'", await fabric.OkAsync("function", "show", "tally0"), StringComparison.Ordinal);
        await fabric.OkAsync("module", "load", "tally_card");
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        while (!(await fabric.OkAsync("function", "list")).Contains(" active", StringComparison.Ordinal))
            deadline.Token.ThrowIfCancellationRequested();
        await CheckDevice(fabric, "tally0");
        // What is exported has the module that was loaded by hand.
        await fabric.OkAsync("function", "deactivate", "tally0");
        await fabric.OkAsync("function", "plug", "tally1", "--provider", "tally", "--function", "card");
        var exported = fabric.Write("exported.yaml", await fabric.OkAsync("export"));
        Assert.Contains(", tally_card]\n", await File.ReadAllTextAsync(exported), StringComparison.Ordinal);
        await fabric.OkAsync("function", "undefine", "tally0");
        await fabric.OkAsync("down");
        await fabric.OkAsync("up", exported, "--detach");
        await CheckDevice(fabric, "tally1");
    }

    [Theory]
    [InlineData("functions:\n  - { name: f, provider: taly, function: card }\nmodules: [MODULES, tally_card]", "2:26: functions[0].provider: 'taly' is no provider of the PCI bus. Did you mean 'tally'? It has simulated, vfio-user, host, tally.")]
    [InlineData("functions:\n  - { name: f, provider: tally, function: cart }\nmodules: [MODULES, tally_card]", "2:43: functions[0].function: 'cart' is no function of provider tally.")]
    [InlineData("functions:\n  - { name: f, provider: tally }\n", "2:26: functions[0].provider: 'tally' says who makes the function, and not which. Add 'function'")]
    [InlineData("functions:\n  - { name: f, simulated: scratch, function: card }\n", "2:46: functions[0].function: 'card' says which function it is, and not who makes it. Add 'provider'")]
    [InlineData("modules: [MODULES, taly_card]\n", ": modules[1]: There is no module 'taly_card' in ")]
    [InlineData("modules: [nowhere/at/all, \"a b\"]\n", "/nowhere/at/all does not exist. Make the folder")]
    [InlineData("modules: [nowhere/at/all, \"a b\"]\n", "1:27: modules[1]: 'a b' is not right here. Write a module's name")]
    public async Task Wrong_providers_and_modules_are_told_at_their_keys(string manifest, string says)
    {
        await using var fabric = new TestFabric();
        var run = await fabric.RunAsync("up", fabric.Write("m.yaml", manifest.Replace("MODULES", TestFabric.TutorialModules, StringComparison.Ordinal)), "--detach");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.Contains(says, run.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Plug_takes_a_provider_and_a_function_together()
    {
        await using var fabric = new TestFabric();
        foreach (string[] words in (string[][])[["--provider", "tally"], ["--function", "card"], ["--simulated", "scratch", "--function", "card"]])
        {
            var run = await fabric.RunAsync(["function", "plug", "x", .. words]);
            Assert.Equal(2, run.Code);
            Assert.Contains("takes --provider and --function together", run.Errors, StringComparison.Ordinal);
        }
    }

    private static async Task<string> CheckDevice(TestFabric fabric, string name)
    {
        var shown = await fabric.OkAsync("device", "show", name);
        Assert.Contains("driver    tally_card\n", shown, StringComparison.Ordinal);
        return shown.Split('\n').Single(static l => l.StartsWith("  path ", StringComparison.Ordinal))[6..].Trim();
    }
}
