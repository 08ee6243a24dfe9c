using System.Buffers.Binary;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.HarrierCore;
using Virtbus.Drivers.MerlinCore;
using Virtbus.Drivers.NicNet;
using Virtbus.Drivers.NicVdpa;
using Virtbus.Drivers.VhostVdpa;
using Virtbus.Hardware.Adapter;
using Virtbus.Subsystems.Net;

namespace Virtbus.Tests.Drivers.Adapter;

/// <summary>A fabric with the buses and the driver modules of adapters.</summary>
internal sealed class AdapterFixture : IAsyncDisposable
{
    private readonly List<AdapterFunction> _adapters = [];

    private AdapterFixture()
    {
    }

    public Fabric Fabric { get; } = new();

    public AuxiliaryBus Auxiliary { get; } = new();

    public PciBus Pci { get; } = new();

    public VdpaBus Vdpa { get; } = new();

    public static async Task<AdapterFixture> StartAsync()
    {
        var fixture = new AdapterFixture();
        fixture.Fabric.RegisterBus(fixture.Auxiliary);
        fixture.Fabric.RegisterBus(fixture.Pci);
        fixture.Fabric.RegisterBus(fixture.Vdpa);
        await new MerlinCoreModule().InitAsync(new ModuleContext(fixture.Fabric, "merlin_core"));
        await new HarrierCoreModule().InitAsync(new ModuleContext(fixture.Fabric, "harrier_core"));
        await new NicNetModule().InitAsync(new ModuleContext(fixture.Fabric, "nic_net"));
        await new NicVdpaModule().InitAsync(new ModuleContext(fixture.Fabric, "nic_vdpa"));
        await new VhostVdpaModule().InitAsync(new ModuleContext(fixture.Fabric, "vhost_vdpa"));
        return fixture;
    }

    public Task<PluggedAdapter> AddMerlinAsync(string name, int nets, int vdpas, ulong mac = 0x020000000010, int vfs = 0) =>
        AddAsync(name, AdapterFunction.CreateMerlin(new AdapterEngine(name, mac, nets, vdpas), vfs));

    public Task<PluggedAdapter> AddHarrierAsync(string name, int nets, int vdpas, ulong mac = 0x020000000020, int vfs = 0) =>
        AddAsync(name, AdapterFunction.CreateHarrier(new AdapterEngine(name, mac, nets, vdpas), vfs));

    public NetDevice Net(string name) =>
        NetSubsystem.Of(Fabric).Class.TryGetDevice(name, out var device) ? (NetDevice)device : throw new InvalidOperationException($"no interface {name}");

    public static byte[] Frame(ulong destination, ulong source, int sequence)
    {
        var frame = new byte[64];
        WriteAddress(frame, destination);
        WriteAddress(frame.AsSpan(6), source);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), 0x88B5);
        BinaryPrimitives.WriteInt32LittleEndian(frame.AsSpan(14), sequence);
        return frame;
    }

    public static int SequenceOf(ReadOnlySpan<byte> frame) => BinaryPrimitives.ReadInt32LittleEndian(frame[14..]);

    public async ValueTask DisposeAsync()
    {
        foreach (var device in Fabric.RootDevices)
            await Fabric.DeleteAsync(device);
        await Fabric.SettleAsync();
        foreach (var adapter in _adapters)
            adapter.Dispose();
    }

    private async Task<PluggedAdapter> AddAsync(string name, AdapterFunction hardware)
    {
        _adapters.Add(hardware);
        return new PluggedAdapter(await Pci.PlugAsync(hardware, label: name), hardware);
    }

    private static void WriteAddress(Span<byte> at, ulong address)
    {
        BinaryPrimitives.WriteUInt16BigEndian(at, (ushort)(address >> 32));
        BinaryPrimitives.WriteUInt32BigEndian(at[2..], (uint)address);
    }
}

/// <summary>An adapter in its slot.</summary>
internal sealed record PluggedAdapter(PciDevice Device, AdapterFunction Hardware);
