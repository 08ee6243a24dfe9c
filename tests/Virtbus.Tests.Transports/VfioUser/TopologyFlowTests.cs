using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Subsystems.Vfio;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Transports.VfioUser;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>The flow of a change of topology, walked hop by hop as docs/architecture.md has it: from a write into the tree to a socket.</summary>
[Collection(WireCollection.Name)]
public sealed class TopologyFlowTests
{
    [Fact]
    public async Task A_write_to_the_tree_adds_a_device_and_one_more_loads_its_module_binds_it_and_opens_its_socket()
    {
        if (!ColdProcess.IsHere())
            return;
        var folder = Directory.CreateTempSubdirectory("virtbus");
        using var lines = new RecordedLog();
        var fabric = new Fabric(new FabricOptions { LoggerFactory = lines });
        var bus = fabric.RegisterBus(new PciBus());
        var provider = new Provider();
        bus.AddProvider(provider);
        using var loader = new ModuleLoader(fabric, AppContext.BaseDirectory, watch: false);
        VfioSuggestion.ShowOnDevices(fabric, loader);
        var exporter = VfioUserServer.MakeExporter(folder.FullName, lines.CreateLogger("test"), TimeProvider.System);
        var observer = new Observer(exporter);
        await fabric.AddClassObserverAsync(VfioSubsystem.Of(fabric).Class, observer);

        // Manifest, command line and HTTP end in such a write.
        await fabric.Tree.WriteAsync("/kernel/config/define", "flow0 kind=pci watched=flow");
        await fabric.Tree.WriteAsync("/kernel/config/functions/flow0/live", "1");
        Hops.AreInOrder(provider.Opened, "FabricTree", "TreeFile", "ProvisioningEngine", "PciFunctions", "PciBus", "PciOpenings", "Provider");
        Hops.AreInOrder(provider.Function.Plugged, "PciHotplug", "PciDevice", "PciHardware", "PciFunction", "WatchedFunction");
        var device = Assert.Single(bus.Devices.OfType<PciDevice>(), static d => d.Label == "flow0");
        // In the tree and told of, in one step; nobody serves it by itself.
        Assert.Contains(fabric.Uevents.History(), e => e.ActionName == "add" && e.DevPath == device.DevPath && e.Variables.Any(v => v.Key == "MODALIAS" && v.Value == device.Modalias));
        Assert.Null(device.Driver);
        Assert.Empty(loader.Loaded);
        Assert.Equal("vfio-pci vfio_pci takes any PCI device (vfio_pci:v*d*sv*sd*bc*sc*i*).\n", fabric.Tree.Read(device.DevPath + "/vfio_drivers"));

        // Override, module, unbind and bind are one request.
        var before = fabric.Uevents.Seqnum;
        await fabric.Tree.WriteAsync(device.DevPath + "/driver_override_bind", "vfio-pci");
        Assert.Equal(("vfio-pci", "vfio-pci"), (device.DriverOverride, device.Driver?.Name));
        Assert.Equal(["vfio_pci_core", "vfio_pci"], loader.Loaded.Select(static m => m.Info.Name));
        Hops.AreInOrder(
            observer.Added, "DriverRegistry", "Binder", "ProbeSteps", "VfioPciDriver", "VfioPciFunction", "VfioSubsystem", "DeviceLife", "ClassObservers", "Observer");
        // One transition: between the module and the class device stands nothing but the bind, and the bind is told last.
        Assert.Equal(
            ["add module", "add module", "add drivers", "add vfio-dev", "bind pci"],
            fabric.Uevents.History(before).Select(static e => $"{e.ActionName} {e.Subsystem}"));
        var socket = exporter.PathOf(device.Name);
        Assert.True(File.Exists(socket));
        using (var client = VfioUserClient.Connect(socket))
        {
            var ids = new byte[4];
            Assert.True(client.TryRead(7, 0, ids, out var fault), fault.Message);
            Assert.Equal([0x42, 0x56, 0x79, 0x77], ids);
        }

        await fabric.Tree.WriteAsync("/kernel/config/functions/flow0/live", "0");
        Assert.False(File.Exists(socket));
        await loader.UnloadAllAsync();
        folder.Delete(recursive: true);
    }

    private sealed class Provider : IPciFunctionProvider
    {
        public string Name => "watched";

        public WatchedFunction Function { get; } = new();

        public IReadOnlyList<string> Opened { get; private set; } = [];

        public IReadOnlyList<string> List() => ["flow"];

        public ValueTask<IPciFunction> OpenAsync(string name, CancellationToken cancellationToken = default)
        {
            Opened = Hops.Here();
            return new(Function);
        }
    }

    private sealed class Observer(IClassObserver next) : IClassObserver
    {
        public IReadOnlyList<string> Added { get; private set; } = [];

        public ValueTask DeviceAddedAsync(Device device)
        {
            Added = Hops.Here();
            return next.DeviceAddedAsync(device);
        }

        public ValueTask DeviceRemovedAsync(Device device) => next.DeviceRemovedAsync(device);
    }

    private sealed class WatchedFunction() : PciFunction(ConfigSpaceBuilder.Function(0x5642, 0x7779).Class(0xFF0000).MemoryBar64(0, 0x1000, prefetchable: false)
        .Express(new PciExpressOptions { HasFunctionLevelReset = true }).Build())
    {
        public IReadOnlyList<string> Plugged { get; private set; } = [];

        protected override void OnPlugged(DmaPort dma) => Plugged = Hops.Here();

        protected override void OnReset(PciResetKind kind)
        {
        }

        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Clear();

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
        }
    }
}
