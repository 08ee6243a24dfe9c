using System.Text.Json;

namespace Virtbus.Tests.Cli;

/// <summary>What goes wrong while a manifest is carried out stands at the key that it is about.</summary>
public sealed class BuildStepTests
{
    [Theory]
    [InlineData("serials:\n  - name: s\n    driver: vfio-pcy\n", "3:13: serials[0].driver: Bus pci has no driver 'vfio-pcy', and no module would bring it. Did you mean 'vfio-pci'?")]
    // The name of the module that brings it.
    [InlineData("serials:\n  - name: s\n    driver: vfio_pci\n", "3:13: serials[0].driver: Bus pci has no driver 'vfio_pci', and no module would bring it. Did you mean 'vfio-pci'?")]
    [InlineData("serials:\n  - name: s\n    driver: merlin_core\n", "3:13: serials[0].driver: ")]
    [InlineData("functions:\n  - { name: f, simulated: scrach }\n", "2:27: functions[0].simulated: 'scrach' is no kind of simulated function. Did you mean 'scratch'?")]
    [InlineData("functions:\n  - { name: f, simulated: scratch, driver: nobody }\n", "2:44: functions[0].driver: Bus pci has no driver 'nobody', and no module would bring it.")]
    [InlineData("functions:\n  - { name: f, host: \"ffff:03:00.1\" }\n", "2:22: functions[0].host: ")]
    [InlineData(
        "adapters:\n  - name: a\n    model: merlin\n    vfs: 2\n    vf_profiles:\n      - { vf: 0, queues: 2 }\n      - vf: 1\n        driver: merlin-core\n",
        "8:17: adapters[0].vf_profiles[1].driver: ")]
    [InlineData("adapters:\n  - name: a\n    model: merlin\n    tap: lo\n", "4:10: adapters[0].tap: ")]
    public async Task Error_of_a_build_step_stands_at_its_key(string manifest, string says)
    {
        await using var fabric = new TestFabric();
        var file = fabric.Write("m.yaml", manifest);
        var run = await fabric.RunAsync("up", file, "--detach");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.Contains($"virtbus: {file}:{says}", run.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Modules_folder_that_others_can_write_is_refused_at_its_key()
    {
        await using var fabric = new TestFabric();
        var folder = Directory.CreateDirectory(fabric.Write("folder", "") + "s").FullName;
        File.SetUnixFileMode(folder, (UnixFileMode)0x1FF);
        var file = fabric.Write("m.yaml", $"serials: []\nmodules: {folder}\n");
        var run = await fabric.RunAsync("up", file, "--detach");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.Contains($"virtbus: {file}:2:10: modules: Modules folder {folder} is not used", run.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Manifest_is_checked_without_a_fabric()
    {
        await using var fabric = new TestFabric();
        var right = fabric.Write("right.yaml", "adapters:\n  - { name: a, model: merlin }\ndisks:\n  - { name: d, adapter: a, memory: 1MiB }\n  - { name: e, adapter: a, null: 1MiB }\n");
        Assert.Equal($"{right} is right: 1 adapter, 2 disks.\n", await fabric.OkAsync("manifest", "check", right));
        Assert.Equal($$"""{"file":"{{right}}","errors":[]}""" + "\n", await fabric.OkAsync("manifest", "check", right, "-j"));
        Assert.Equal("nothing.yaml is right: a fabric with nothing in it.\n", await fabric.OkAsync("manifest", "check", Path.GetFileName(fabric.Write("nothing.yaml", "{}"))));
        var wrong = fabric.Write("wrong.yaml", "adapters:\n  - { name: a, model: merlyn }\ndisks:\n  - { name: d, adapter: b, memory: 1mb }\n");
        var said = await fabric.RefusedAsync("manifest", "check", wrong);
        Assert.Contains($"{wrong}:2:23: adapters[0].model: 'merlyn' is not right here. Did you mean 'merlin'?", said, StringComparison.Ordinal);
        Assert.Contains($"{wrong}:4:36: disks[0].memory: '1mb' is not right here. Did you mean '1MiB'?", said, StringComparison.Ordinal);
        var run = await fabric.RunAsync("manifest", "check", wrong, "--json");
        Assert.Equal((1, ""), (run.Code, run.Errors));
        var errors = JsonDocument.Parse(run.Output).RootElement.GetProperty("errors");
        Assert.Equal(3, errors.GetArrayLength());
        Assert.Equal((2, 23, "adapters[0].model"), (errors[0].GetProperty("line").GetInt32(), errors[0].GetProperty("column").GetInt32(), errors[0].GetProperty("path").GetString()));
        Assert.Contains("does not exist", await fabric.RefusedAsync("manifest", "check", "nowhere.yaml"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Empty_manifest_is_refused_and_export_writes_none()
    {
        await using var fabric = new TestFabric();
        var empty = fabric.Write("empty.yaml", "# cut\n");
        var run = await fabric.RunAsync("up", empty, "--detach");
        Assert.Equal(1, run.Code);
        Assert.Contains($"{empty}:1:1: there is nothing in this manifest.", run.Errors, StringComparison.Ordinal);
        await fabric.UpAsync("{}");
        Assert.Contains("there is nothing in this manifest.", await fabric.RefusedAsync("apply", empty), StringComparison.Ordinal);
        var exported = await fabric.OkAsync("export");
        Assert.Equal("{}\n", exported);
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("again.yaml", exported)));
    }

    [Fact]
    public void Default_manifest_names_the_schema_beside_it()
    {
        var folder = Path.Combine(AppContext.BaseDirectory, "manifests");
        const string Key = "# yaml-language-server: $schema=";
        var line = File.ReadLines(Path.Combine(folder, "default.yaml")).First();
        Assert.StartsWith(Key, line, StringComparison.Ordinal);
        Assert.True(File.Exists(Path.Combine(folder, line[Key.Length..])), line);
    }
}
