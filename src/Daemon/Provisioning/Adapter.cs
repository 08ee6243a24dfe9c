using System.Net.NetworkInformation;
using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;
using Virtbus.Ethernet;
using Virtbus.Hardware.Adapter;
using Virtbus.Platform;
using Virtbus.Transports.Tap;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A simulated adapter: its hardware, the wire to the host, and its device.</summary>
internal sealed class Adapter : IAsyncDisposable
{
    private readonly AdapterFunction _hardware;
    // To a TAP device of the host, and to a switch.
    private readonly IReadOnlyList<IDisposable> _wires;

    private Adapter(AdapterManifest manifest, AdapterFunction hardware, IReadOnlyList<IDisposable> wires, PciDevice device)
    {
        Manifest = manifest;
        _hardware = hardware;
        _wires = wires;
        Device = device;
    }

    /// <summary>The device that the hardware was given first.</summary>
    public PciDevice Device { get; }

    /// <summary>What it was made from.</summary>
    public AdapterManifest Manifest { get; }

    /// <summary>The name that the manifest gives it.</summary>
    public string Name => Manifest.Name;

    /// <summary>What media are put into.</summary>
    public AdapterEngine Engine => _hardware.Engine;

    /// <summary>Makes the hardware and plugs it in. The manifest's name is the device's label.</summary>
    /// <exception cref="VirtbusException">What the host answers to the TAP device, and the bus to the hardware. Nothing is left behind.</exception>
    public static async ValueTask<Adapter> CreateAsync(Fabric fabric, AdapterManifest manifest, NamedSwitches switches)
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
        var wires = new List<IDisposable>();
        try
        {
            if (manifest.Tap is { } name)
                wires.Add(Connect(engine, name));
            if (manifest.Switch is { } place)
                wires.Add(new SwitchUplink(manifest.Name, engine, switches.Open(place)));
            return new Adapter(manifest, hardware, wires, await fabric.GetBus<PciBus>().PlugAsync(hardware, label: manifest.Name));
        }
        catch
        {
            wires.ForEach(static w => w.Dispose());
            hardware.Dispose();
            throw;
        }
    }

    /// <summary>Whether a vDPA part is one of the adapter's, whichever device stands for the hardware now.</summary>
    public bool IsAbove(VdpaManagement part) => part.Device.Parent is PciDevice device && device.Address == Device.Address;

    public async ValueTask DisposeAsync()
    {
        // Not the device: by a remove and a rescan that is another one now. Somebody may have pulled the hardware out, too.
        await Device.Fabric!.GetBus<PciBus>().UnplugAsync(_hardware);
        foreach (var wire in _wires)
            wire.Dispose();
        _hardware.Dispose();
    }

    private static Wire Connect(AdapterEngine engine, string name)
    {
        try
        {
            return new Wire(engine, name);
        }
        catch (VirtbusException e)
        {
            throw e.At("tap");
        }
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
