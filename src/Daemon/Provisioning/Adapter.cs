using System.Net.NetworkInformation;
using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;
using Virtbus.Ethernet;
using Virtbus.Hardware.Adapter;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Transports.Tap;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A simulated adapter: its hardware, the wire to the host, the media that were put in, and its device.</summary>
internal sealed class Adapter : IAsyncDisposable
{
    private readonly Stack<IDisposable> _media = new();
    private readonly AdapterFunction _hardware;
    private readonly Wire? _wire;

    private Adapter(AdapterFunction hardware, Wire? wire, PciDevice device)
    {
        _hardware = hardware;
        _wire = wire;
        Device = device;
    }

    /// <summary>The device that the hardware was given first.</summary>
    public PciDevice Device { get; }

    /// <summary>The disks that the adapter is to have, by name, whenever its vdpa part is bound.</summary>
    public Dictionary<string, VdpaProfile> Disks { get; } = [];

    /// <summary>Makes the hardware and plugs it in. The manifest's name is the device's label.</summary>
    /// <exception cref="VirtbusException">What the host answers to the TAP device, and the bus to the hardware. Nothing is left behind.</exception>
    public static async ValueTask<Adapter> CreateAsync(Fabric fabric, AdapterManifest manifest)
    {
        var parts = manifest.Parts.Value;
        var engine = new AdapterEngine(
            manifest.Name,
            manifest.Mac is { } mac ? ToNumber(mac.Value) : DeriveAddress(manifest.Name),
            parts.HasFlag(AdapterParts.Net) ? manifest.Ports : 0,
            parts.HasFlag(AdapterParts.Vdpa) ? 1 : 0);
        var hardware = manifest.Model.Value == AdapterModel.Merlin
            ? AdapterFunction.CreateMerlin(engine, AdapterFunction.MaxVirtualFunctions)
            : AdapterFunction.CreateHarrier(engine, AdapterFunction.MaxVirtualFunctions);
        Wire? wire = null;
        try
        {
            if (manifest.Tap is { } name)
                wire = new Wire(engine, name);
            return new Adapter(hardware, wire, await fabric.GetBus<PciBus>().PlugAsync(hardware, label: manifest.Name));
        }
        catch
        {
            wire?.Dispose();
            hardware.Dispose();
            throw;
        }
    }

    /// <summary>Configures and enables the virtual functions that a manifest asks for. The core driver has to be bound.</summary>
    /// <exception cref="VirtbusException">ENODEV: it is not; else what the adapter answers.</exception>
    public async ValueTask EnableVirtualFunctionsAsync(AdapterManifest manifest, ProvisioningEngine engine, CancellationToken cancellationToken)
    {
        if (Device.Driver is null)
            throw new VirtbusException(Errno.ENODEV, $"Adapter {manifest.Name} has no driver, which virtual functions need. Add the module of its core to the modules folder.");
        var profiles = manifest.Profiles.ToDictionary(static p => p.Value.Number.Value, static p => p.Value);
        var names = new List<string>();
        for (var i = 0; i < manifest.VirtualFunctions.Value; i++)
        {
            var values = new List<KeyValuePair<string, string>> { new("index", $"{i}") };
            if (profiles.GetValueOrDefault(i) is { } profile)
                values.AddRange(profile.Values);
            names.Add(engine.Define($"{manifest.Name}v{i}", "vf", manifest.Name, values).Name);
        }

        await engine.ActivateAsync(names, cancellationToken);
    }

    /// <summary>Whether a vDPA part is one of the adapter's, whichever device stands for the hardware now.</summary>
    public bool IsAbove(VdpaManagement part) => part.Device.Parent is PciDevice device && device.Address == Device.Address;

    /// <summary>Puts a medium in; it is closed with the adapter.</summary>
    public void Attach(string name, IBlockBackend medium, ICacheModeStore cacheMode)
    {
        _media.Push(medium);
        _hardware.Engine.AttachMedium(name, medium, cacheMode);
    }

    public async ValueTask DisposeAsync()
    {
        // Not the device: by a remove and a rescan that is another one now. Somebody may have pulled the hardware out, too.
        await Device.Fabric!.GetBus<PciBus>().UnplugAsync(_hardware);
        _wire?.Dispose();
        _hardware.Dispose();
        while (_media.TryPop(out var medium))
            medium.Dispose();
    }

    private static ulong ToNumber(PhysicalAddress address) => address.GetAddressBytes().Aggregate(0UL, (all, b) => (all << 8) | b);

    // Locally administered, the same at every start, with room for the ports.
    private static ulong DeriveAddress(string name) => 0x02_00_00_00_00_00 | ((ulong)StableHash.Of(name) << 4);

    /// <summary>The wire from the adapter's switch to a TAP device of the host.</summary>
    private sealed class Wire : IDisposable
    {
        private readonly TapBridge _tap;
        private readonly AdapterWire _wire;

        public Wire(AdapterEngine engine, string name)
        {
            // Frames for the host are dropped until its interface is there.
            TapBridge? tap = null;
            _wire = engine.ConnectWire((in EthernetFrame frame) => Volatile.Read(ref tap)?.Send(frame));
            try
            {
                _tap = TapBridge.Start(name, (in EthernetFrame frame) => _wire.TryReceive(frame));
            }
            catch
            {
                _wire.Dispose();
                throw;
            }
            Volatile.Write(ref tap, _tap);
        }

        public void Dispose()
        {
            _wire.Dispose();
            _tap.Dispose();
        }
    }
}
