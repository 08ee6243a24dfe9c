using System.Collections.Concurrent;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VfioPci;
using Virtbus.Pci;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Testing;

/// <summary>
/// A fabric for tests: the virtual bus, a PCI bus with a host bridge, the virtio bus, a clock that the test turns, a log that it reads, and a list of what drivers
/// were called for. Disposing it deletes all its devices.
/// </summary>
public sealed class FabricRig : IAsyncDisposable
{
    private readonly ConcurrentQueue<string> _calls = new();

    private FabricRig(FabricScheduler? scheduler)
    {
        Fabric = new Fabric(new FabricOptions { LoggerFactory = Log, Time = Time, Scheduler = scheduler ?? FabricScheduler.ThreadPool });
        Auxiliary = Fabric.RegisterBus(new AuxiliaryBus());
        Pci = Fabric.RegisterBus(new PciBus());
        Virtio = Fabric.RegisterBus(new VirtioBus());
    }

    /// <summary>Its clock.</summary>
    public ManualTime Time { get; } = new();

    /// <summary>Its log.</summary>
    public RecordedLog Log { get; } = new();

    /// <summary>The fabric.</summary>
    public Fabric Fabric { get; }

    /// <summary>The virtual bus.</summary>
    public AuxiliaryBus Auxiliary { get; }

    /// <summary>The PCI bus.</summary>
    public PciBus Pci { get; }

    /// <summary>The virtio bus.</summary>
    public VirtioBus Virtio { get; }

    /// <summary>What drivers were called for, oldest first; see <see cref="Say"/>.</summary>
    public IReadOnlyList<string> Calls => [.. _calls];

    /// <summary>Makes one.</summary>
    /// <param name="scheduler">What transitions run on; the thread pool when left out. <see cref="SeededScheduler"/> explores their orders.</param>
    public static async Task<FabricRig> StartAsync(FabricScheduler? scheduler = null)
    {
        var fabric = new FabricRig(scheduler);
        await fabric.Pci.AddHostBridgeAsync().ConfigureAwait(false);
        return fabric;
    }

    /// <summary>Adds a line to <see cref="Calls"/>.</summary>
    /// <param name="call">What was called.</param>
    public void Say(string call) => _calls.Enqueue(call);

    /// <summary>Makes <see cref="Calls"/> empty.</summary>
    public void ClearCalls() => _calls.Clear();

    /// <summary>Initializes a driver module, as a load of its file does.</summary>
    /// <param name="module">The module.</param>
    /// <param name="name">Its name.</param>
    public Task InitModuleAsync(IFabricModule module, string name)
    {
        ArgumentNullException.ThrowIfNull(module);
        return module.InitAsync(new ModuleContext(Fabric, name)).In();
    }

    /// <summary>Registers a driver whose callbacks the test writes.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="ids">What it serves.</param>
    public async Task<RecordingPciDriver> RegisterDriverAsync(string name, params PciDeviceId[] ids)
    {
        var driver = new RecordingPciDriver(this, name, ids);
        await Fabric.RegisterDriverAsync(driver).In().ConfigureAwait(false);
        return driver;
    }

    /// <summary>Plugs a function into a slot of its own, and lets the drivers have it.</summary>
    /// <param name="function">The function; it goes with its slot.</param>
    /// <param name="driver">The driver that gets it, whatever its table says; null for whichever matches.</param>
    /// <returns>The device on the bus.</returns>
    public async Task<PciDevice> PlugAsync(IPciFunction function, string? driver = null)
    {
        var device = await Pci.PlugAsync(function).In().ConfigureAwait(false);
        if (driver is not null)
            await BindAsync(device, driver).ConfigureAwait(false);
        return device;
    }

    /// <summary>Binds a device to a driver of its bus, as <c>driver_override</c> and a bind do; an other driver lets go of it first.</summary>
    /// <param name="device">The device.</param>
    /// <param name="driver">The driver's name.</param>
    /// <exception cref="ExpectationException">There is no such driver.</exception>
    public async Task BindAsync(PciDevice device, string driver)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (!Pci.TryGetDriver(driver, out var wanted))
            throw new ExpectationException($"There is no driver '{driver}' on the PCI bus; there are: {string.Join(", ", Pci.Drivers)}.");
        Fabric.SetDriverOverride(device, driver);
        if (device.Driver is { } bound && bound != wanted)
            await Fabric.UnbindAsync(bound, device.Name).In().ConfigureAwait(false);
        if (device.Driver is null)
            await Fabric.BindAsync(wanted, device.Name).In().ConfigureAwait(false);
    }

    /// <summary>Gives a function to a user of VFIO, as a program that opens it does: binds it to <c>vfio-pci</c> and opens it.</summary>
    /// <param name="device">The device.</param>
    /// <param name="user">Who the user is, in errors.</param>
    /// <returns>The open function: config space, registers, interrupts, DMA. Disposing it gives the function back.</returns>
    /// <exception cref="ExpectationException">It can't be opened.</exception>
    public async Task<VfioHandle> OpenAsync(PciDevice device, string user = "test")
    {
        ArgumentNullException.ThrowIfNull(device);
        if (!Pci.TryGetDriver("vfio-pci", out _))
            await InitModuleAsync(new VfioPciModule(), "vfio_pci").ConfigureAwait(false);
        await BindAsync(device, "vfio-pci").ConfigureAwait(false);
        var offered = device.Children.OfType<VfioDevice>().Single();
        return offered.TryOpen(user, out var handle, out var fault)
            ? handle!
            : throw new ExpectationException($"Device {device.Name} can't be opened: {fault.Message}.");
    }

    /// <summary>Reads an attribute of the tree.</summary>
    /// <param name="path">Its path, as <c>/devices/...</c>.</param>
    public string Read(string path) => Fabric.Tree.Read(path);

    /// <summary>The events since a number, each as <c>action name</c>.</summary>
    /// <param name="after">The number; 0 for all.</param>
    public IReadOnlyList<string> Events(long after = 0) =>
        [.. Fabric.Uevents.History(after).Select(e => $"{e.ActionName} {e.DevPath[(e.DevPath.LastIndexOf('/') + 1)..]}")];

    /// <summary>Deletes all devices.</summary>
    public async ValueTask DisposeAsync()
    {
        foreach (var device in Fabric.RootDevices)
            await Fabric.DeleteAsync(device).In().ConfigureAwait(false);
        await Fabric.SettleAsync().In().ConfigureAwait(false);
    }
}
