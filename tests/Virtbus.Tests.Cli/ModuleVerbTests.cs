using System.Text.Json;

namespace Virtbus.Tests.Cli;

public sealed class ModuleVerbTests
{
    [Fact]
    public async Task A_module_in_use_is_unloaded_by_force_only_and_loads_again()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(TestFabric.DemoManifest);
        Assert.Matches("cli_demo +loaded +2 +cli_demo\\.part,cli_demo\\.bad,cli_demo\\.later +Drivers for tests", await fabric.OkAsync("module", "list"));
        Assert.Contains("has a driver bound to demo.part.0, demo.part.1. Unbind it, or unload with --force.", await fabric.RefusedAsync("module", "unload", "cli_demo"), StringComparison.Ordinal);
        Assert.Equal("cli_demo: unloaded\n", await fabric.OkAsync("module", "unload", "cli_demo", "--force"));
        Assert.Contains("\"state\":\"unbound\"", await fabric.OkAsync("-j", "device", "show", "demo.part.0"), StringComparison.Ordinal);
        Assert.Matches("cli_demo +available", await fabric.OkAsync("module", "list"));
        Assert.Equal("cli_demo: loaded, drivers cli_demo.part, cli_demo.bad, cli_demo.later\n", await fabric.OkAsync("module", "load", "cli-demo"));
        Assert.Contains("\"state\":\"bound\"", await fabric.OkAsync("-j", "device", "show", "demo.part.0"), StringComparison.Ordinal);
        Assert.Contains("There is no module 'nobody' in ", await fabric.RefusedAsync("module", "load", "nobody"), StringComparison.Ordinal);
        Assert.Contains("Module nobody is not loaded.", await fabric.RefusedAsync("module", "unload", "nobody"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_file_that_is_no_module_is_listed_with_the_reason()
    {
        await using var fabric = new TestFabric();
        var folder = Path.GetDirectoryName(fabric.Write("broken.dll", "no assembly"))!;
        await fabric.UpAsync($"modules: {folder}");
        var module = JsonDocument.Parse(await fabric.OkAsync("-j", "module", "list")).RootElement.EnumerateArray().Single(m => m.GetProperty("name").GetString() == "broken");
        Assert.Equal("skipped", module.GetProperty("state").GetString());
        Assert.NotEqual("", module.GetProperty("reason").GetString());
    }
}
