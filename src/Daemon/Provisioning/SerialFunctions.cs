using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Hardware.Serial;
using Virtbus.Pci;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Provisioning;

/// <summary>Serial ports on PCI, as functions, each with the socket of its line.</summary>
internal sealed class SerialFunctions : SingleFunctionProvider, IAsyncDisposable
{
    internal const string KindName = "serial";

    private static readonly ProfileField<string> DriverName = ProfileFields.Driver("vfio-pci", standard: "vfio-pci");
    private static readonly ProfileField[] All = [DriverName];

    private readonly ProvisioningContext _context;
    private readonly PciBus _bus;
    private readonly ProvisioningEngine _engine;
    private readonly ConcurrentDictionary<string, SerialDevice> _ports = new();

    public SerialFunctions(ProvisioningContext context)
    {
        _context = context;
        _bus = context.Fabric.GetBus<PciBus>();
        _engine = ProvisioningEngine.Of(context.Fabric);
        _engine.AddProvider(this);
    }

    public override string Kind => KindName;

    public override IReadOnlyList<string> Parents => [];

    public override IReadOnlyList<ProfileField> Fields => All;

    /// <summary>The ports that there are, by name.</summary>
    public IEnumerable<SerialDevice> Ports => _ports.Values.OrderBy(static p => p.Name, StringComparer.Ordinal);

    public override Device? Find(FunctionProfile profile, Device device) =>
        // After a remove and a rescan another device stands for the same hardware.
        base.Find(profile, device) ?? _bus.Devices.OfType<PciDevice>().FirstOrDefault(d => d.Label == profile.Name);

    public override string? PlaceOf(Device device) => device.Name;

    /// <summary>Takes the ports down; what was defined to last is as it was.</summary>
    public async ValueTask DisposeAsync()
    {
        _engine.RemoveProvider(this);
        foreach (var port in Ports.Reverse().ToList())
            await port.DisposeAsync();
    }

    protected override async ValueTask<Device> ActivateAsync(FunctionProfile profile, CancellationToken cancellationToken)
    {
        var driver = profile.Get(DriverName);
        await _engine.LoadDriverAsync(_bus, driver);
        var port = Make(profile.Name);
        try
        {
            port.Device = await _bus.PlugAsync(
                port.Function,
                profile.Name,
                device =>
                {
                    // Before it is visible, so that no other driver has it first.
                    _context.Fabric.SetDriverOverride(device, driver);
                    return default;
                },
                PciAddress.TryParse(profile.Place, out var place) ? place : null);
            _engine.RequireDriver(profile.Name, port.Device, driver);
            _ports[profile.Name] = port;
            return port.Device;
        }
        catch
        {
            await port.DisposeAsync();
            throw;
        }
    }

    protected override async ValueTask DeactivateAsync(FunctionProfile profile, Device device)
    {
        if (_ports.TryRemove(profile.Name, out var port))
            await port.DisposeAsync();
    }

    private SerialDevice Make(string name)
    {
        var function = new SerialFunction(_context.Fabric.Time);
        try
        {
            var path = Path.Combine(_context.RuntimeFolder, name + ".console.sock");
            return new SerialDevice(name, function, new SerialConsole(new SerialTextPort(function.Port), path, _context.LoggerFactory.CreateLogger("Virtbus.Serial"), _context.Fabric.Time));
        }
        catch
        {
            function.Dispose();
            throw;
        }
    }
}
