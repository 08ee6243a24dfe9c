using Virtbus.Block;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.MerlinCore;
using Virtbus.Drivers.NicVdpa;
using Virtbus.Hardware.Adapter;

namespace Virtbus.Tests.Drivers.Adapter;

/// <summary>A fabric with an adapter and one disk on it, made by the drivers that a user has.</summary>
internal sealed class AdapterDisk : IAsyncDisposable
{
    private readonly PciBus _pci;
    private readonly AdapterFunction _hardware;
    private readonly PciDevice _device;

    private AdapterDisk(PciBus pci, AdapterFunction hardware, PciDevice device, IVdpaOps ops)
    {
        _pci = pci;
        _hardware = hardware;
        _device = device;
        Ops = ops;
    }

    /// <summary>The disk's operations, as its transport gets them.</summary>
    public IVdpaOps Ops { get; }

    public static async Task<AdapterDisk> CreateAsync(IBlockBackend medium, string serial, int queues, bool packed = false)
    {
        var fabric = new Fabric();
        fabric.RegisterBus(new AuxiliaryBus());
        var pci = fabric.RegisterBus(new PciBus());
        var vdpa = fabric.RegisterBus(new VdpaBus());
        await new MerlinCoreModule().InitAsync(new ModuleContext(fabric, "merlin_core"));
        await new NicVdpaModule().InitAsync(new ModuleContext(fabric, "nic_vdpa"));
        var hardware = AdapterFunction.CreateMerlin(new AdapterEngine("adapter0", 0x020000000010, networkParts: 0, vdpaParts: 1));
        hardware.Engine.AttachMedium("disk0", medium);
        var device = await pci.PlugAsync(hardware, label: "adapter0");
        var disk = await vdpa.Managements.Single().AddDiskAsync("disk0", "disk0", serial, queues, packed);
        return new AdapterDisk(pci, hardware, device, disk.Ops);
    }

    public async ValueTask DisposeAsync()
    {
        await _pci.UnplugAsync(_device);
        _hardware.Dispose();
    }
}
