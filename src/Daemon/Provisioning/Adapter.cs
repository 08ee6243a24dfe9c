using System.Net.NetworkInformation;
using Virtbus.Buses.Faux;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;
using Virtbus.Hardware.Adapter;
using Virtbus.Hardware.Block;
using Virtbus.Platform;
using Virtbus.Transports.Tap;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A simulated adapter: its hardware, the wire to the host, the media that were put in, and its device.</summary>
internal sealed class Adapter : IAsyncDisposable
{
    private const int WireDepth = 256;
    private readonly Stack<IDisposable> _media = new();
    private readonly IDisposable _hardware;
    private TapBridge? _tap;

    private Adapter(AdapterEngine engine, IDisposable hardware, Device device)
    {
        Engine = engine;
        _hardware = hardware;
        Device = device;
    }

    public AdapterEngine Engine { get; }

    public Device Device { get; }

    /// <summary>The disks that the adapter is to have, by name, whenever its vdpa part is bound.</summary>
    public Dictionary<string, Buses.Vdpa.VdpaProfile> Disks { get; } = [];

    /// <summary>Makes the hardware and its device.</summary>
    /// <exception cref="VirtbusException">EEXIST: the name is taken; what the host answers to the TAP device. Nothing is left behind.</exception>
    public static async ValueTask<Adapter> CreateAsync(Fabric fabric, AdapterManifest manifest)
    {
        var parts = manifest.Parts.Value;
        var engine = new AdapterEngine(
            manifest.Name,
            manifest.Mac is { } mac ? ToNumber(mac.Value) : DeriveAddress(manifest.Name),
            parts.HasFlag(AdapterParts.Net) ? manifest.Ports : 0,
            parts.HasFlag(AdapterParts.Vdpa) ? 1 : 0);
        TapBridge? tap = null;
        try
        {
            if (manifest.Tap is { } name)
                tap = PlugTap(engine, name);
            var faux = fabric.GetBus<FauxBus>();
            var adapter = manifest.Model.Value switch
            {
                AdapterModel.Merlin => await AddAsync(new MerlinAdapter(engine), MerlinAdapter.Model),
                _ => await AddAsync(new HarrierAdapter(engine), HarrierAdapter.Model),
            };
            adapter._tap = tap;
            return adapter;

            async ValueTask<Adapter> AddAsync<T>(T hardware, string model)
                where T : class, IDisposable => new(engine, hardware, await faux.CreateAsync(manifest.Name.Value, model, hardware));
        }
        catch
        {
            tap?.Dispose();
            engine.Dispose();
            throw;
        }
    }

    /// <summary>Puts a medium in; it is closed with the adapter.</summary>
    public void Attach(string name, IBlockBackend medium)
    {
        _media.Push(medium);
        Engine.AttachMedium(name, medium);
    }

    public async ValueTask DisposeAsync()
    {
        await Device.Fabric!.UnregisterAsync(Device);
        _tap?.Dispose();
        _hardware.Dispose();
        while (_media.TryPop(out var medium))
            medium.Dispose();
    }

    // The wire is a port of the switch like any other.
    private static TapBridge PlugTap(AdapterEngine engine, string name)
    {
        if (!engine.TryAllocate(WireDepth, out var port, out var fault))
            throw new VirtbusException(fault.Errno, $"Adapter {engine.Name} has no port for TAP device '{name}': {fault.Message}. Leave 'tap' out.");
        var tap = TapBridge.Start(name, frame =>
        {
            if (port!.Transmit.TryWrite(frame))
                port.RingDoorbell();
        });
        port!.SetInterrupt(() => port.Receive.Drain(tap.Send));
        return tap;
    }

    private static ulong ToNumber(PhysicalAddress address) => address.GetAddressBytes().Aggregate(0UL, (all, b) => (all << 8) | b);

    // Locally administered, the same at every start, with room for the ports.
    private static ulong DeriveAddress(string name) => 0x02_00_00_00_00_00 | ((ulong)StableHash.Of(name) << 4);
}
