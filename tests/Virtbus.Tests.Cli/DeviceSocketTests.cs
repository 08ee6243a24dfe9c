using System.Text.Json;

namespace Virtbus.Tests.Cli;

/// <summary>Sockets of devices whose place is taken.</summary>
public sealed class DeviceSocketTests
{
    private const UnixFileMode Private = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;
    private const string Function = "0000:01:00.1";

    private const string Manifest = """
        adapters:
          - name: a
            model: merlin
            vfs: 1
        disks:
          - { name: d, adapter: a, memory: 1MiB }
        """;

    public static TheoryData<string> Obstacles { get; } = ["file", "folder", "link to nothing", "link to a socket"];

    [Theory]
    [MemberData(nameof(Obstacles))]
    public async Task Disk_whose_place_is_taken_is_refused_with_the_path(string obstacle)
    {
        await using var fabric = new TestFabric();
        var path = Obstruct(fabric, "d.sock", obstacle);
        Assert.EndsWith($"'{path}' exists and is no socket. Remove it or choose another socket path.", await RefusedUpAsync(fabric, Manifest), StringComparison.Ordinal);
        Assert.False(File.Exists(fabric.ControlSocket));
        Assert.True(Path.Exists(path) || new FileInfo(path).LinkTarget is not null);
    }

    [Fact]
    public async Task Virtual_function_of_the_manifest_whose_place_is_taken_is_refused_with_the_path()
    {
        await using var fabric = new TestFabric();
        var path = Obstruct(fabric, Function + ".sock", "file");
        const string WithFunction = """
            adapters:
              - name: a
                model: merlin
                vfs: 1
                vf_profiles:
                  - { vf: 0, driver: vfio-pci }
            """;
        Assert.Contains($"'{path}' exists and is no socket.", await RefusedUpAsync(fabric, WithFunction), StringComparison.Ordinal);
    }

    [Theory]
    [MemberData(nameof(Obstacles))]
    public async Task Bind_to_a_place_that_is_taken_fails_and_works_when_it_is_free(string obstacle)
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var path = Obstruct(fabric, Function + ".sock", obstacle);
        var said = await fabric.RefusedAsync("driver", "override", Function, "vfio-pci");
        Assert.Contains($"'{path}' exists and is no socket. Remove it or choose another socket path.", said, StringComparison.Ordinal);
        var device = JsonDocument.Parse(await fabric.OkAsync("device", "show", Function, "-j")).RootElement;
        Assert.Equal("unbound", device.GetProperty("state").GetString());
        Assert.Contains(path, await fabric.RefusedAsync("driver", "bind", Function, "vfio-pci"), StringComparison.Ordinal);
        Remove(path);
        await fabric.OkAsync("driver", "bind", Function, "vfio-pci");
        await fabric.OkAsync("driver", "unbind", Function);
        Assert.False(File.Exists(path));
    }

    [Fact]
    public async Task Disk_that_is_bound_again_to_a_place_that_is_taken_says_so()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        await fabric.OkAsync("driver", "unbind", "d");
        var path = Obstruct(fabric, "d.sock", "file");
        Assert.Contains($"'{path}' exists and is no socket.", await fabric.RefusedAsync("driver", "bind", "d", "vhost-vdpa"), StringComparison.Ordinal);
        Remove(path);
        await fabric.OkAsync("driver", "bind", "d", "vhost-vdpa");
        Assert.True(File.Exists(path));
    }

    [Fact]
    public async Task Function_or_virtual_function_that_appears_where_the_place_is_taken_says_so()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("adapters:\n  - { name: a, model: merlin }\n");
        string[] plug = ["function", "plug", "p", "--simulated", "scratch", "--driver", "scratch-vfio-pci"];
        var address = (await fabric.OkAsync(plug))[..Function.Length];
        await fabric.OkAsync("function", "unplug", "p");
        var path = Obstruct(fabric, address + ".sock", "file");
        Assert.Contains($"'{path}' exists and is no socket.", await fabric.RefusedAsync(plug), StringComparison.Ordinal);
        Remove(path);
        // Nothing is left of it, so it can be plugged in again.
        Assert.Contains("There is no device 'p'", await fabric.RefusedAsync("device", "show", "p"), StringComparison.Ordinal);
        Assert.Equal($"{address}: bound to scratch-vfio-pci\n", await fabric.OkAsync(plug));

        await fabric.OkAsync("vf", "set", "a", "0", "--driver", "vfio-pci");
        path = Obstruct(fabric, Function + ".sock", "file");
        Assert.Contains($"'{path}' exists and is no socket.", await fabric.RefusedAsync("vf", "enable", "a", "1"), StringComparison.Ordinal);
        Assert.Equal("1\n", await fabric.OkAsync("attr", "get", TestFabric.AdapterPath + "/sriov_numvfs"));
    }

    [Fact]
    public async Task Sockets_that_a_killed_daemon_left_are_replaced()
    {
        await using var fabric = new TestFabric();
        var first = await fabric.StartUpAsync(Manifest);
        first.Kill();
        await first.EndsAsync();
        Assert.True(File.Exists(Path.Combine(fabric.Runtime, "d.sock")));
        await fabric.UpAsync(Manifest);
    }

    // The last line, after those of the steps.
    private static async Task<string> RefusedUpAsync(TestFabric fabric, string manifest)
    {
        var run = await fabric.RunAsync("up", fabric.Write("m.yaml", manifest), "-j");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.DoesNotContain("\n   at ", run.Errors, StringComparison.Ordinal);
        var last = run.Errors.TrimEnd().Split('\n')[^1];
        Assert.StartsWith("virtbus: ", last, StringComparison.Ordinal);
        return last;
    }

    private static string Obstruct(TestFabric fabric, string name, string obstacle)
    {
        Directory.CreateDirectory(fabric.Runtime, Private);
        var path = Path.Combine(fabric.Runtime, name);
        switch (obstacle)
        {
            case "file":
                File.WriteAllText(path, "something");
                break;
            case "folder":
                Directory.CreateDirectory(path);
                break;
            case "link to nothing":
                File.CreateSymbolicLink(path, path + ".nothing");
                break;
            default:
                File.CreateSymbolicLink(path, fabric.ControlSocket);
                break;
        }
        return path;
    }

    private static void Remove(string path)
    {
        if (Directory.Exists(path))
            Directory.Delete(path);
        else
            File.Delete(path);
    }

    [Fact]
    public async Task Disk_without_a_driver_is_no_disk_that_is_missing()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(
            """
            adapters:
              - { name: adapter0, model: merlin }
            disks:
              - { name: d, adapter: adapter0, memory: 1MiB }
            """);
        await fabric.OkAsync("driver", "unbind", "d");
        Assert.Equal(
            "virtbus: Device 'd' offers no socket: no driver has it. Give it to guests with 'virtbus driver bind d vhost-vdpa'.",
            await fabric.RefusedAsync("vm", "d", "--print"));
        await fabric.OkAsync("driver", "bind", "d", "vhost-vdpa");
    }
}
