using System.Collections.Concurrent;
using Virtbus.Buses.Pci;
using Virtbus.Drivers.VirtioVfioPci;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Remote.Pci;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Net;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.VfioUser;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>
/// A fabric whose physical function has virtual ones, the first handed out by the variant over vfio-user, and an interface of its own on the same switch. Fabrics
/// that connect are machines, whose own drivers take the function; they know old registers only, or modern ones.
/// </summary>
internal sealed class VirtioVfioMachine : IAsyncDisposable
{
    internal const ulong Here = 0x020000000001;
    internal const ulong There = 0x020000000010;

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private VfioUserServer _server = null!;
    private VfioDevice? _offered;

    private VirtioVfioMachine(VirtioRig rig) => Rig = rig;

    internal VirtioRig Rig { get; }

    internal PciDevice Physical { get; private set; } = null!;

    internal PciDevice Function => Physical.VirtualFunctions[0];

    internal VfioDevice Offered
    {
        get => Volatile.Read(ref _offered!);
        private set => Volatile.Write(ref _offered, value);
    }

    /// <summary>The interface on this side, and what came to it.</summary>
    internal NetDevice Local { get; private set; } = null!;

    internal ConcurrentQueue<byte[]> Seen { get; private set; } = null!;

    internal static async Task<VirtioVfioMachine> StartAsync()
    {
        var machine = new VirtioVfioMachine(await VirtioRig.StartAsync());
        var rig = machine.Rig;
        await rig.Base.InitModuleAsync(new VirtioVfioPciModule(), "virtio_vfio_pci");
        var lan = new EthernetSwitch();
        (machine.Local, machine.Seen) = await VirtioNetTests.AddAsync(rig, lan, Here);
        machine.Physical = await rig.PlugAsync(new VirtioFunction(
            new VirtioNetDevice("nic", lan, new VirtioNetOptions(Here + 1)),
            new VirtioFunctionOptions { VirtualFunctions = 2 },
            index => new VirtioNetDevice($"nicv{index}", lan, new VirtioNetOptions(There + (ulong)index))));
        await rig.Fabric.Tree.WriteAsync(machine.Physical.DevPath + "/sriov_drivers_autoprobe", "0").In();
        await rig.Fabric.Tree.WriteAsync(machine.Physical.DevPath + "/sriov_numvfs", "2").In();
        await rig.Fabric.SettleAsync().In();
        await machine.OfferAsync();
        return machine;
    }

    /// <summary>Binds the variant; who connects comes in by the object that there is then.</summary>
    internal async Task OfferAgainAsync()
    {
        await Rig.Base.BindAsync(Function, "virtio-vfio-pci");
        Offered = Function.Children.OfType<VfioDevice>().Single();
    }

    private async Task OfferAsync()
    {
        await OfferAgainAsync();
        _server = new VfioUserServer(Path.Combine(_folder.FullName, "socket"), Offered, Rig.Base.Log);
        _server.Start();
    }

    /// <summary>How many messages the machine that is connected has sent.</summary>
    internal long Messages => _server.Connection!.Messages;

    /// <summary>A machine with the function, whose driver for it runs.</summary>
    internal async Task<Guest> ConnectAsync(bool isLegacy)
    {
        var guest = new Guest(await VirtioRig.StartAsync(), VfioUserFunctionProvider.Connect(_server.Path));
        await guest.Rig.PlugAsync(isLegacy ? SpoiledFunction.WithoutCapabilities(guest.Function) : guest.Function);
        guest.Look();
        return guest;
    }

    /// <summary>Sends frames of all lengths each way, and has them compared.</summary>
    internal async Task ExchangeAsync(Guest guest, int frames = 300) =>
        await Task.WhenAll(SendAsync(guest.Net, There, Here, Seen, frames), SendAsync(Local, Here, There, guest.Seen, frames));

    public async ValueTask DisposeAsync()
    {
        await _server.StopAsync().In();
        await Rig.DisposeAsync();
        _folder.Delete(recursive: true);
    }

    private static async Task SendAsync(NetDevice from, ulong source, ulong destination, ConcurrentQueue<byte[]> seen, int frames)
    {
        seen.Clear();
        var sent = Enumerable.Range(0, frames).Select(i => VirtioNetTests.Frame(destination, source, 60 + (i * 37 % 1450), (byte)i)).ToArray();
        for (var i = 0; i < sent.Length; i++)
        {
            await Deadline.UntilAsync(() => seen.Count + 100 > i, "the frames before");
            await VirtioNetTests.SendAsync(from, sent[i]);
        }

        await Deadline.UntilAsync(() => seen.Count >= frames, "all frames");
        Assert.Equal(VirtioNetTests.Flows(sent), VirtioNetTests.Flows([.. seen]));
    }

    /// <summary>A machine with the function.</summary>
    internal sealed class Guest(VirtioRig rig, RemoteFunction function) : IAsyncDisposable
    {
        internal VirtioRig Rig => rig;

        internal RemoteFunction Function => function;

        internal PciDevice Device => (PciDevice)rig.Only.Parent!;

        internal NetDevice Net { get; private set; } = null!;

        internal ConcurrentQueue<byte[]> Seen { get; private set; } = null!;

        /// <summary>Finds the interface that its driver has made.</summary>
        internal void Look()
        {
            Net = Assert.Single(NetSubsystem.Of(rig.Fabric).Class.Devices.OfType<NetDevice>());
            var seen = new VirtioNetTests.Receiver();
            Net.AddReceiver(seen);
            Seen = seen.Frames;
        }

        /// <summary>Takes the driver off and binds it anew, as a boot does.</summary>
        internal async Task BootAsync()
        {
            var device = Device;
            var driver = device.Driver!;
            await rig.Fabric.UnbindAsync(driver, device.Name).In();
            Assert.Empty(device.Vectors);
            await rig.Fabric.BindAsync(driver, device.Name).In();
            await rig.Fabric.SettleAsync().In();
            Look();
        }

        public async ValueTask DisposeAsync()
        {
            await rig.DisposeAsync();
            function.Dispose();
        }
    }
}
