using System.Runtime.CompilerServices;
using System.Runtime.Loader;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Hardware.Adapter;
using Virtbus.Hardware.Probe;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;

namespace Virtbus.Tests.Core.Modules;

/// <summary>Drivers are modules: DM-10, DM-22, DM-23, DM-25, VB-27, VB-34, VB-36, TD-01.</summary>
public sealed class ModuleTests : IDisposable
{
    private readonly ModuleFolder _folder = new();
    private readonly RecordedLog _lines = new();
    private readonly Fabric _fabric;
    private readonly AuxiliaryBus _bus;

    public ModuleTests()
    {
        _fabric = new Fabric(new FabricOptions { LoggerFactory = _lines });
        _bus = _fabric.RegisterBus(new AuxiliaryBus());
    }

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Index_is_made_without_running_code_of_a_module()
    {
        _folder.Make("quiet_module", aliases: ["auxiliary:quiet.*", "pci:v0000*"], hasStaticCode: true);
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        var info = Assert.Single(loader.Index.Modules);
        Assert.Equal(("quiet_module", "made"), (info.Name, info.Description));
        Assert.Equal(["auxiliary:quiet.*", "pci:v0000*"], info.Aliases);
        Assert.Equal(["quiet_module"], loader.Index.FindByAlias("auxiliary:quiet.a").Select(m => m.Name));
        Assert.DoesNotContain(ModuleHooks.Ran, r => r.Key.StartsWith("quiet_module", StringComparison.Ordinal));
        await loader.LoadAsync("quiet-module");
        Assert.Equal(1, ModuleHooks.Ran["quiet_module"]);
        Assert.Contains("quiet_module static", ModuleHooks.Ran);
    }

    [Fact]
    public async Task What_a_module_added_goes_with_it_or_keeps_it()
    {
        var there = new List<string>();
        var users = new Dictionary<string, string>();
        void Add(ModuleContext context, string name) => context.Add(
            () => there.Add(name),
            isEnd =>
            {
                if (!isEnd && users.TryGetValue(name, out var user))
                    throw new VirtbusException(Errno.EBUSY, $"{name} is used by {user}.");
                there.Remove(name);
            });
        ModuleContext? late = null;
        ModuleHooks.On("adds_module", context =>
        {
            late = context;
            Add(context, "first");
            Add(context, "second");
            return default;
        });
        ModuleHooks.On("fails_module", context =>
        {
            Add(context, "third");
            throw new VirtbusException(Errno.ENODEV, "no");
        });
        _folder.Make("adds_module");
        _folder.Make("fails_module");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        await loader.LoadAsync("adds_module");
        Assert.Equal(["first", "second"], there);
        // The second one went before the first refused, and is back: all of it stays.
        users["first"] = "somebody";
        foreach (var force in new[] { false, true })
        {
            var e = await Expect.RefusedAsync(Errno.EBUSY, () => new ValueTask(loader.UnloadAsync("adds_module", force)));
            Assert.Equal("first is used by somebody.", e.Message);
            Assert.Equal(["first", "second"], there);
            Assert.Single(loader.Loaded);
        }

        users.Clear();
        await loader.UnloadAsync("adds_module");
        Assert.Empty(there);
        Assert.Equal(Errno.ENODEV, Assert.Throws<VirtbusException>(() => Add(late!, "late")).Errno);
        await Expect.RefusedAsync(Errno.ENODEV, () => new ValueTask(loader.LoadAsync("fails_module")));
        Assert.Empty(there);
        // At the end nobody is asked.
        await loader.LoadAsync("adds_module");
        users["first"] = "somebody";
        await loader.UnloadAllAsync();
        Assert.Empty(there);
        late = null;
    }

    [Theory]
    [InlineData("aux_test_device", "aux_test_driver")]
    [InlineData("aux_test_driver", "aux_test_device")]
    public async Task Samples_load_in_both_orders_and_unload_in_any_and_are_really_gone(string first, string second)
    {
        _folder.Sample("aux_test_contract", "aux_test_device", "aux_test_driver");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        for (var cycle = 0; cycle < 3; cycle++)
        {
            await loader.LoadAsync(first);
            await loader.LoadAsync(second);
            await _fabric.SettleAsync().In();
            Assert.Equal("aux_test_driver", BoundTo("aux_test_device.test.0"));
            Assert.Equal("hello from aux_test_device\n", _fabric.Tree.Read("/bus/auxiliary/devices/aux_test_device.test.0/test/payload"));
            Assert.Equal("42\n", _fabric.Tree.Read("/bus/auxiliary/devices/aux_test_device.test.0/test/driver_data"));
            Assert.Equal(["aux_test_device", "aux_test_driver"], loader.Loaded.Single(m => m.Info.Name == "aux_test_contract").Holders);
            await Expect.RefusedAsync(Errno.EBUSY, () => new ValueTask(loader.UnloadAsync("aux_test_contract", force: true)));

            var order = cycle % 2 == 0 ? new[] { first, second } : [second, first];
            Assert.True(await loader.UnloadAsync(order[0], force: true).In(), $"{order[0]} is not collected");
            Assert.True(await loader.UnloadAsync(order[1], force: true).In(), $"{order[1]} is not collected");
            Assert.True(await loader.UnloadAsync("aux_test_contract").In(), "the contract is not collected");
            Assert.Empty(_bus.Devices);
            Assert.Empty(_bus.Drivers);
            Assert.Empty(_fabric.RootDevices);
        }
        Assert.Contains(_lines.Lines, l => l == "Information aux_test_device.test.0: payload 'hello from aux_test_device', driver data 42");
    }

    [Fact]
    public async Task Modules_are_loaded_and_unloaded_by_writes_to_the_tree()
    {
        const string Folder = "/kernel/modules/";
        _folder.Sample("aux_test_contract", "aux_test_device", "aux_test_driver");
        using (var loader = new ModuleLoader(_fabric, _folder.Path, watch: false))
        {
            Assert.Equal("aux_test_contract\naux_test_device\naux_test_driver\n", _fabric.Tree.Read(Folder + "available"));
            await _fabric.Tree.WriteAsync(Folder + "load", "aux-test-device");
            await _fabric.SettleAsync().In();
            Assert.Equal("", _fabric.Tree.Read(Folder + "available"));
            Assert.Equal("live\n", _fabric.Tree.Read("/module/aux_test_device/initstate"));
            await Expect.RefusedAsync(Errno.ENOENT, () => _fabric.Tree.WriteAsync(Folder + "load", "nothing"));
            await Expect.RefusedAsync(Errno.EBUSY, () => _fabric.Tree.WriteAsync(Folder + "unload", "aux_test_driver"));
            await Expect.RefusedAsync(Errno.EINVAL, () => _fabric.Tree.WriteAsync(Folder + "unload", "aux_test_driver please"));
            await Expect.RefusedAsync(Errno.EINVAL, () => _fabric.Tree.WriteAsync(Folder + "unload", ""));
            await _fabric.Tree.WriteAsync(Folder + "unload", "aux_test_driver force");
            Assert.Equal("aux_test_driver\n", _fabric.Tree.Read(Folder + "available"));
            Assert.Empty(_bus.Drivers);
            await loader.UnloadAllAsync();
        }
        // They go with their loader.
        await Expect.RefusedAsync(Errno.ENOENT, () => _fabric.Tree.WriteAsync(Folder + "load", "aux_test_device"));
    }

    [Fact]
    public async Task Override_with_bind_brings_the_drivers_module()
    {
        _folder.Make("brought_driver");
        TestDriver? brought = null;
        var world = new World();
        await world.Fabric.AddAsync(world.Parent);
        ModuleHooks.On("brought_driver", context => context.RegisterDriverAsync(brought = new TestDriver(world, "x", new AuxiliaryDeviceId("mod.z"))));
        using var loader = new ModuleLoader(world.Fabric, _folder.Path, watch: false);
        var device = await world.AddAsync("a", 1);
        var e = await Expect.RefusedAsync(Errno.ENOENT, () => world.Fabric.OverrideDriverAsync(device, "brought-driver"));
        Assert.Equal("Bus auxiliary has no driver 'brought-driver'; that is the name of a module, whose driver is test.x. Name a driver.", e.Message);
        e = await Expect.RefusedAsync(Errno.ENOENT, () => world.Fabric.OverrideDriverAsync(device, "other-driver"));
        Assert.Contains("no module 'other_driver' that could bring it", e.Message, StringComparison.Ordinal);
        Assert.Null(device.DriverOverride);
        await world.Fabric.OverrideDriverAsync(device, "test.x");
        Assert.Same(brought, device.Driver);
        await loader.UnloadAllAsync();
    }

    [Fact]
    public async Task Tool_without_a_subsystem_reads_and_provisions_identity()
    {
        _folder.Sample("aux_test_contract", "aux_test_device", "aux_test_driver", "aux_tool");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        await loader.LoadAsync("aux_test_device");
        await _fabric.SettleAsync().In();
        const string Factory = "/bus/auxiliary/devices/aux_test_device.factory.0/factory/";
        Assert.Equal("aux_tool", BoundTo("aux_test_device.factory.0"));
        Assert.Equal("", _fabric.Tree.Read(Factory + "serial_number"));
        await _fabric.Tree.WriteAsync(Factory + "serial_number", "SN0042\n");
        Assert.Equal("SN0042\n", _fabric.Tree.Read(Factory + "serial_number"));
        await Expect.RefusedAsync(Errno.EBUSY, () => _fabric.Tree.WriteAsync(Factory + "serial_number", "SN0043"));
        Assert.Equal("pass, 1 consumers\n", _fabric.Tree.Read(Factory + "selftest"));
        Assert.Equal("aux_test_device.test.0\taux_test_driver\naux_test_device.factory.0\taux_tool\n", _fabric.Tree.Read(Factory + "parts"));
        await loader.UnloadAllAsync().In();
        Assert.Empty(loader.Loaded);
    }

    [Fact]
    public async Task Added_device_gets_its_module_by_alias_and_the_driver_says_whose_it_is()
    {
        _folder.Sample("aux_test_contract", "aux_test_device", "aux_test_driver");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        await loader.LoadAsync("aux_test_device");
        await _fabric.SettleAsync().In();
        Assert.Equal(["aux_test_contract", "aux_test_device", "aux_test_driver"], loader.Loaded.Select(m => m.Info.Name));
        Assert.Contains(_fabric.Uevents.History(), e => e is { ActionName: "add", Subsystem: "auxiliary" } && e.Variables.Any(v => v is { Key: "MODALIAS", Value: "auxiliary:aux_test_device.test" }));
        Assert.Equal("/module/aux_test_driver", Assert.IsType<TreeLink>(_fabric.Tree.Find("/bus/auxiliary/drivers/aux_test_driver/module", follow: false)).Target);
        Assert.Equal("1\n", _fabric.Tree.Read("/module/aux_test_driver/refcnt"));
        Assert.Equal("auxiliary:aux_test_device.test\n", _fabric.Tree.Read("/module/aux_test_driver/alias"));
        var e = await Expect.RefusedAsync(Errno.EBUSY, () => new ValueTask(loader.UnloadAsync("aux_test_driver")));
        Assert.Equal("Module aux_test_driver has a driver bound to aux_test_device.test.0. Unbind it, or unload with --force.", e.Message);
        Assert.Equal("aux_test_driver", BoundTo("aux_test_device.test.0"));
        await _fabric.Tree.WriteAsync("/bus/auxiliary/drivers/aux_test_driver/unbind", "aux_test_device.test.0");
        Assert.True(await loader.UnloadAsync("aux_test_driver").In());
        await Expect.RefusedAsync(Errno.ENOENT, () => new ValueTask(loader.UnloadAsync("aux_test_driver")));
    }

    [Fact]
    public async Task Unloaded_module_is_collected_whatever_was_done_with_it()
    {
        _folder.Sample("aux_test_contract", "aux_test_device", "aux_test_driver");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        using var events = _fabric.Uevents.Subscribe();
        for (var cycle = 0; cycle < 4; cycle++)
        {
            await loader.LoadAsync("aux_test_device");
            await _fabric.SettleAsync().In();
            ReadEverything(_fabric.Tree.Root, 0);
            Assert.NotEmpty((await events.ReadAsync().In()).Events);
            await _fabric.SuspendAsync();
            await _fabric.ResumeAsync();
            Assert.True(await loader.UnloadAsync("aux_test_driver", force: true).In(), "the driver's module is not collected");
            Assert.True(await loader.UnloadAsync("aux_test_device").In(), "the device's module is not collected");
            Assert.True(await loader.UnloadAsync("aux_test_contract").In(), "the contract is not collected");
        }
        Assert.DoesNotContain(AssemblyLoadContext.All, c => c.Name is "aux_test_driver" or "aux_test_device" or "aux_test_contract");
    }

    [Fact]
    public async Task Every_shipped_module_is_collected_when_it_is_unloaded_after_use()
    {
        var root = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(root, "Virtbus.slnx")))
            root = Path.GetDirectoryName(root)!;
        var shipped = Directory.EnumerateFiles(Path.Combine(root, "src", "Drivers"), "*.csproj", SearchOption.AllDirectories).Select(p => Path.GetFileNameWithoutExtension(p)).ToArray();
        _folder.Sample(shipped);
        var pci = _fabric.RegisterBus(new PciBus());
        _fabric.RegisterBus(new VdpaBus());
        var virtio = _fabric.RegisterBus(new VirtioBus());
        using var merlin = AdapterFunction.CreateMerlin(new AdapterEngine("adapter0", 0x020000000010, 1, 1), 1);
        using var harrier = AdapterFunction.CreateHarrier(new AdapterEngine("adapter1", 0x020000000020, 1, 1), 0);
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        foreach (var name in shipped)
            await loader.LoadAsync(name);
        Assert.Equal(shipped.Order(StringComparer.Ordinal), loader.Loaded.Select(m => m.Info.Name).Order(StringComparer.Ordinal));
        await UseAsync();
        while (Next() is { } name)
            Assert.True(await loader.UnloadAsync(name, force: true).In(), $"{name} is not collected");
        Assert.DoesNotContain(AssemblyLoadContext.All, c => shipped.Contains(c.Name));

        async Task UseAsync()
        {
            var physical = await pci.PlugAsync(merlin, label: "adapter0");
            await pci.PlugAsync(harrier, label: "adapter1");
            await _fabric.Tree.WriteAsync(physical.DevPath + "/sriov_numvfs", "1");
            var scratch = await pci.PlugAsync(new ScratchFunction());
            foreach (var driver in new[] { "scratch-vfio-pci", "vfio-pci" })
                await _fabric.OverrideDriverAsync(scratch, driver).In();
            await _fabric.OverrideDriverAsync(physical.VirtualFunctions[0], "merlin-vfio-pci").In();
            await pci.PlugAsync(new VirtioFunction(new VirtioRngDevice("dice0")), label: "dice0");
            await pci.PlugAsync(new VirtioFunction(new VirtioConsoleDevice("talk0")), label: "talk0");
            await _fabric.SettleAsync().In();
            Assert.Equal(4, _bus.Devices.Count(d => d.Driver?.Name is "nic_net" or "nic_vdpa"));
            Assert.Equal(["virtio_console", "virtio_rng"], virtio.Devices.Select(d => d.Driver?.Name).Order(StringComparer.Ordinal));
            // All but registers, which are bytes.
            ReadEverything((TreeDirectory)_fabric.Tree.Find("/bus/auxiliary"), 0);
            ReadEverything((TreeDirectory)_fabric.Tree.Find("/bus/virtio"), 0);
            ReadEverything((TreeDirectory)_fabric.Tree.Find("/class"), 0);
        }

        // What another one needs goes after that.
        string? Next() => loader.Loaded.FirstOrDefault(m => m.Holders.Count == 0)?.Info.Name ?? loader.Loaded.FirstOrDefault()?.Info.Name;
    }

    [Fact]
    public async Task Context_captured_by_a_timer_in_a_probe_does_not_keep_the_module()
    {
        _folder.Sample("aux_test_contract", "aux_test_device");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        Timer? timer = null;
        // A timer captures the ambient context of the transition that it is made in; the transition's device is of the module's type.
        await _fabric.RegisterDriverAsync(new PlainDriver(_bus, "aux_test_device.test")
        {
            OnProbe = () => timer = new Timer(static _ => { }, null, Timeout.Infinite, Timeout.Infinite),
        });
        await loader.LoadAsync("aux_test_device");
        await _fabric.SettleAsync().In();
        Assert.NotNull(timer);
        Assert.True(await loader.UnloadAsync("aux_test_device").In(), "the device's module is not collected");
        Assert.True(await loader.UnloadAsync("aux_test_contract").In(), "the contract is not collected");
        await timer.DisposeAsync();
    }

    [Fact]
    public async Task Failed_init_takes_out_what_it_put_in_and_is_collected()
    {
        _folder.Make("failing_init");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        ModuleHooks.On("failing_init", async context =>
        {
            await context.RegisterDriverAsync(new PlainDriver(context.Fabric.GetBus<AuxiliaryBus>(), "left_behind"));
            throw new InvalidOperationException("no luck");
        });
        var e = await Expect.RefusedAsync(Errno.EINVAL, () => new ValueTask(loader.LoadAsync("failing_init")));
        Assert.Equal("Module failing_init refused to start: no luck", e.Message);
        Assert.Empty(loader.Loaded);
        Assert.Empty(_bus.Drivers);
        Collect();
        Assert.DoesNotContain(AssemblyLoadContext.All, c => c.Name == "failing_init");
        ModuleHooks.On("failing_init", _ => default);
        await loader.LoadAsync("failing_init");
        Assert.Equal("failing_init", Assert.Single(loader.Loaded).Info.Name);
    }

    [Fact]
    public async Task File_dropped_into_the_folder_while_the_fabric_runs_serves_devices_that_wait()
    {
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: true);
        var bound = new TaskCompletionSource();
        var parent = new Device("p");
        await _fabric.AddAsync(parent);
        var device = await _bus.CreateAsync(parent, "dropped", "part", "payload", 0u);
        ModuleHooks.On("dropped_module", context => context.RegisterDriverAsync(new PlainDriver(context.Fabric.GetBus<AuxiliaryBus>(), "dropped.part") { Probed = bound }));
        _folder.Make("dropped_module", aliases: ["auxiliary:dropped.*"]);
        await bound.Task.In();
        await _fabric.SettleAsync().In();
        Assert.NotNull(device.Driver);
    }

    [Fact]
    public async Task Module_that_was_unloaded_by_hand_stays_so_when_another_file_comes()
    {
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        var parent = new Device("p");
        await _fabric.AddAsync(parent);
        await _bus.CreateAsync(parent, "byhand", "part", "payload", 0u);
        _folder.Make("byhand_module", aliases: ["auxiliary:byhand.*"]);
        await loader.RescanAsync();
        await _fabric.SettleAsync().In();
        Assert.Equal("byhand_module", Assert.Single(loader.Loaded).Info.Name);

        await loader.UnloadAsync("byhand_module", force: true);
        _folder.Make("another_module");
        await loader.RescanAsync();
        await _fabric.SettleAsync().In();
        Assert.Empty(loader.Loaded);
    }

    [Fact]
    public async Task Replaced_file_is_used_by_the_next_load()
    {
        _folder.Make("replaced", description: "one");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        await loader.LoadAsync("replaced");
        _folder.Make("replaced", description: "the second", hasStaticCode: true);
        await loader.RescanAsync();
        Assert.Equal("one", Assert.Single(loader.Loaded).Info.Description);
        await loader.UnloadAsync("replaced");
        await loader.LoadAsync("replaced");
        Assert.Equal("the second", Assert.Single(loader.Loaded).Info.Description);
        Assert.Equal(2, ModuleHooks.Ran["replaced"]);
        File.Delete(_folder.File("replaced.dll"));
        await loader.RescanAsync();
        await loader.UnloadAsync("replaced");
        await Expect.RefusedAsync(Errno.ENOENT, () => new ValueTask(loader.LoadAsync("replaced")));
    }

    [Fact]
    public async Task Broken_and_foreign_files_are_named_and_skipped_and_the_others_serve()
    {
        File.WriteAllText(_folder.File("text.dll"), "not an assembly at all");
        File.WriteAllBytes(_folder.File("empty.dll"), []);
        _folder.Make("whole");
        var bytes = File.ReadAllBytes(_folder.File("whole.dll"));
        File.WriteAllBytes(_folder.File("truncated.dll"), bytes[..(bytes.Length / 3)]);
        for (var i = 0; i < 20; i++)
        {
            // Bytes turned over all through the file: whatever the reader meets, it goes on.
            var damaged = bytes.ToArray();
            for (var at = 128 + (i * 37); at < damaged.Length; at += 611)
                damaged[at] ^= (byte)(1 << (i % 8));
            File.WriteAllBytes(_folder.File($"damaged{i}.dll"), damaged);
        }
        File.Copy(typeof(object).Assembly.Location.Replace("System.Private.CoreLib.dll", "libcoreclr.so", StringComparison.Ordinal), _folder.File("native.dll"));
        File.Copy(typeof(FactAttribute).Assembly.Location, _folder.File("foreign.dll"));
        File.CreateSymbolicLink(_folder.File("dangling.dll"), "/nowhere/at.dll");
        File.CreateSymbolicLink(_folder.File("device.dll"), "/dev/zero");
        File.CreateSymbolicLink(_folder.File("circle.dll"), _folder.File("circle.dll"));
        // Opening a pipe would wait for a writer that never comes.
        using (var mkfifo = System.Diagnostics.Process.Start("mkfifo", [_folder.File("pipe.dll")]))
            await mkfifo.EndsAsync();
        File.CreateSymbolicLink(_folder.File("to_pipe.dll"), _folder.File("pipe.dll"));
        _folder.Make("undeclared", declares: false);
        _folder.Make("impostor", declared: "whole");
        _folder.Make("no_entry", entry: "");
        _folder.Make("null_alias", nullAlias: true);
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        var skipped = loader.Index.Skipped.ToDictionary(s => Path.GetFileName(s.Path), s => s.Reason);
        Assert.StartsWith("it is not a valid .NET assembly", skipped["text.dll"], StringComparison.Ordinal);
        Assert.Equal("it is empty, or no regular file", skipped["empty.dll"]);
        Assert.StartsWith("it is not a valid .NET assembly", skipped["truncated.dll"], StringComparison.Ordinal);
        Assert.StartsWith("it is not a valid .NET assembly", skipped["native.dll"], StringComparison.Ordinal);
        Assert.Equal("it is a .NET assembly but declares no [assembly: FabricModule]", skipped["foreign.dll"]);
        Assert.StartsWith("it can't be read", skipped["dangling.dll"], StringComparison.Ordinal);
        Assert.StartsWith("it can't be read", skipped["circle.dll"], StringComparison.Ordinal);
        foreach (var name in new[] { "device.dll", "pipe.dll", "to_pipe.dll" })
            Assert.Equal("it is empty, or no regular file", skipped[name]);
        Assert.Equal("it is a .NET assembly but declares no [assembly: FabricModule]", skipped["undeclared.dll"]);
        Assert.Equal("it declares the module name 'whole', which is not its file name", skipped["impostor.dll"]);
        Assert.Equal("its [assembly: FabricModule] names no entry class", skipped["no_entry.dll"]);
        Assert.Equal("its ModuleAliasAttribute names no alias", skipped["null_alias.dll"]);
        Assert.Contains(_lines.Lines, l => l.StartsWith("Warning Module file ", StringComparison.Ordinal) && l.Contains("text.dll", StringComparison.Ordinal));
        await loader.LoadAsync("whole");
        Assert.Equal(1, ModuleHooks.Ran["whole"]);
    }

    [Fact]
    public async Task Hostile_modules_are_refused_by_name_and_the_fabric_goes_on()
    {
        _folder.Make("wrong_entry", entry: "Nobody");
        _folder.Make("no_module", implements: false);
        _folder.Make("throwing_static", hasStaticCode: true);
        _folder.Make("throws_in_init", aliases: ["auxiliary:hostile.part"]);
        ModuleHooks.On("throws_in_init", _ => throw new VirtbusException(Errno.EIO, "I don't want to."));
        _folder.Make("circle_a", references: ["circle_b"]);
        _folder.Make("circle_b", references: ["circle_a"]);
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        Assert.Equal("Module wrong_entry: its entry class Nobody does not exist. Build " + _folder.File("wrong_entry.dll") + " again.", (await Refused(Errno.EINVAL, "wrong_entry")).Message);
        Assert.Equal("Module no_module: its entry class Entry is no IFabricModule of this program.", (await Refused(Errno.EINVAL, "no_module")).Message);
        Assert.Contains("throwing_static", (await Refused(Errno.EINVAL, "throwing_static")).Message, StringComparison.Ordinal);
        Assert.Equal("Module throws_in_init refused to start: I don't want to.", (await Refused(Errno.EIO, "throws_in_init")).Message);
        Assert.Equal("Modules depend on each other in a circle: circle_a -> circle_b -> circle_a.", (await Refused(Errno.ELOOP, "circle_a")).Message);
        await Refused(Errno.ENOENT, "nobody");
        Assert.Empty(loader.Loaded);
        // By alias too: the device is added all the same.
        var parent = new Device("p");
        await _fabric.AddAsync(parent);
        await _bus.CreateAsync(parent, "hostile", "part", "payload", 0u);
        await _fabric.SettleAsync().In();
        Assert.Contains(_lines.Lines, l => l.StartsWith("Error Module throws_in_init for alias auxiliary:hostile.part could not be loaded", StringComparison.Ordinal));
        Collect();
        Assert.DoesNotContain(AssemblyLoadContext.All, c => c.Name is "wrong_entry" or "no_module" or "throws_in_init" or "circle_a" or "circle_b");

        Task<VirtbusException> Refused(Errno errno, string name) => Expect.RefusedAsync(errno, () => new ValueTask(loader.LoadAsync(name)));
    }

    [Fact]
    public async Task Module_that_never_finishes_its_init_is_taken_out_and_others_load()
    {
        var never = new TaskCompletionSource();
        ModuleContext? late = null;
        _folder.Make("never_ready");
        ModuleHooks.On("never_ready", context =>
        {
            late = context;
            return new ValueTask(never.Task);
        });
        _folder.Make("ready");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false) { InitLimit = TimeSpan.FromMilliseconds(50) };
        await Expect.RefusedAsync(Errno.ETIMEDOUT, () => new ValueTask(loader.LoadAsync("never_ready")));
        loader.InitLimit = Deadline.Limit;
        await loader.LoadAsync("ready");
        Assert.Equal("ready", Assert.Single(loader.Loaded).Info.Name);
        // What it still tries comes too late.
        await Expect.RefusedAsync(Errno.ENODEV, () => late!.RegisterDriverAsync(new PlainDriver(_bus, "late.part")));
        never.SetResult();
    }

    [Fact]
    public async Task Module_with_a_dash_is_loaded_and_unloaded_by_either_spelling()
    {
        _folder.Make("under_score");
        using var loader = new ModuleLoader(_fabric, _folder.Path, watch: false);
        await loader.LoadAsync("under-score");
        await loader.UnloadAsync("under-score");
        _folder.Make("with-dash");
        await loader.LoadAsync("with-dash");
        Assert.True(await loader.UnloadAsync("with-dash").In());
    }

    private string? BoundTo(string device) => _bus.TryGetDevice(device, out var found) ? found.Driver?.Name : "no such device";

    private static void ReadEverything(TreeDirectory directory, int depth)
    {
        foreach (var node in directory.List())
        {
            if (node is TreeFile { Mode: not 0x80 } file)
                file.Read();
            else if (node is TreeDirectory below && depth < 8)
                ReadEverything(below, depth + 1);
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Collect()
    {
        for (var i = 0; i < 10; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
    }

    private sealed class PlainDriver(AuxiliaryBus bus, string part) : AuxiliaryDriver<AuxiliaryDevice>(bus, "plain", null, new AuxiliaryDeviceId(part.Contains('.', StringComparison.Ordinal) ? part : "mod." + part))
    {
        public TaskCompletionSource? Probed { get; init; }

        public Action? OnProbe { get; init; }

        protected override ValueTask ProbeAsync(AuxiliaryDevice device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
        {
            Probed?.SetResult();
            OnProbe?.Invoke();
            return default;
        }
    }
}
