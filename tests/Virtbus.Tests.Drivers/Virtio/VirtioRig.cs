using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioBlk;
using Virtbus.Drivers.VirtioConsole;
using Virtbus.Drivers.VirtioNet;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Drivers.VirtioRng;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Pci;
using Virtbus.Subsystems.HwRandom;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A fabric with the transport driver and the drivers of the virtio bus.</summary>
internal sealed class VirtioRig : IAsyncDisposable
{
    internal const string Rng = "virtio_rng";
    internal const string Net = "virtio_net";
    internal const string Console = "virtio_console";

    private VirtioRig(FabricRig rig) => Base = rig;

    internal FabricRig Base { get; }

    internal Fabric Fabric => Base.Fabric;

    internal HwRandomSubsystem Random => HwRandomSubsystem.Of(Base.Fabric);

    /// <summary>The one device of the virtio bus.</summary>
    internal VirtioBusDevice Only => (VirtioBusDevice)Assert.Single(Base.Virtio.Devices);

    public ValueTask DisposeAsync() => Base.DisposeAsync();

    internal static async Task<VirtioRig> StartAsync()
    {
        var rig = new VirtioRig(await FabricRig.StartAsync());
        await rig.Base.InitModuleAsync(new VirtioPciModule(), "virtio_pci");
        await rig.Base.InitModuleAsync(new VirtioRngModule(), Rng);
        await rig.Base.InitModuleAsync(new VirtioNetModule(), Net);
        await rig.Base.InitModuleAsync(new VirtioBlkModule(), "virtio_blk");
        await rig.Base.InitModuleAsync(new VirtioConsoleModule(), Console);
        return rig;
    }

    /// <summary>Plugs a function in, and lets the drivers have it.</summary>
    internal async Task<PciDevice> PlugAsync(IPciFunction function)
    {
        var device = await Base.PlugAsync(function);
        await Fabric.SettleAsync().In();
        return device;
    }

    internal Task<PciDevice> PlugAsync(VirtioDevice model, VirtioFunctionOptions? options = null) => PlugAsync(new VirtioFunction(model, options));

    /// <summary>Reads so many random bytes.</summary>
    internal byte[] Read(int count)
    {
        var source = Assert.Single(Random.Sources);
        var bytes = new byte[count];
        for (var done = 0; done < count;)
        {
            var more = source.Read(bytes.AsSpan(done), Deadline.Limit);
            Assert.True(more > 0, "the source gives nothing");
            done += more;
        }

        return bytes;
    }
}
