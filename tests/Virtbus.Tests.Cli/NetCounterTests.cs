using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Daemon.Provisioning;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Tests.Cli;

/// <summary>What network functions count, as the tree shows it.</summary>
public sealed class NetCounterTests
{
    private const ulong Mac = 0x02_00_00_00_01_00;

    [Fact]
    public async Task Functions_physical_virtual_and_plain_show_what_they_sent_received_and_lost()
    {
        await using var rig = await FabricRig.StartAsync();
        using var loader = new ModuleLoader(rig.Fabric, Path.Combine(Path.GetDirectoryName(TestFabric.Program)!, "modules"), watch: false);
        var engine = ProvisioningEngine.Of(rig.Fabric);
        engine.Modules = loader;
        var context = new ProvisioningContext(rig.Fabric, loader, Path.GetTempPath(), NullLoggerFactory.Instance);
        await using var exports = new NbdExports(context);
        await using (var functions = new VirtioFunctions(exports, context))
        {
            await engine.AddAsync("nic", "virtio", null, [new("virtio", "net"), new("mac", "02:00:00:00:01:00"), new("vfs", "2")], cancellationToken: TestContext.Current.CancellationToken);
            await engine.AddAsync("one", "virtio", null, [new("virtio", "net"), new("mac", "02:00:00:00:02:00")], cancellationToken: TestContext.Current.CancellationToken);
            await engine.AddAsync("dice", "virtio", null, [new("virtio", "rng")], cancellationToken: TestContext.Current.CancellationToken);
            await rig.Fabric.SettleAsync();
            var physical = PathOf(rig, "nic");
            // No driver takes the virtual ones.
            await rig.Fabric.Tree.WriteAsync(physical + "/sriov_drivers_autoprobe", "0", TestContext.Current.CancellationToken);
            await rig.Fabric.Tree.WriteAsync(physical + "/sriov_numvfs", "2", TestContext.Current.CancellationToken);
            var card = ModelOf(functions, "nic");
            var virtuals = (VirtioNetDevice)((VirtioFunction)functions.Parts.Single(static p => p.Name == "nic").Function).FindVirtualDevice(1)!;
            var plain = ModelOf(functions, "one");
            using (var user = new VirtioNetUser(card))
            using (var virtualUser = new VirtioNetUser(virtuals))
            using (var plainUser = new VirtioNetUser(plain))
            {
                // Each is known to the switch; nobody but these has a driver, so nicv0 loses what goes to all.
                Send(user, card, to: 0xFFFF_FFFF_FFFF, from: Mac, length: 60);
                Send(virtualUser, virtuals, Mac, Mac + 2, 70);
                Send(virtualUser, virtuals, Mac, Mac + 2, 80);
                Send(plainUser, plain, Mac, 0x02_00_00_00_02_00, 90);
                // Longer than the MTU.
                plainUser.Send(new byte[1600]);
                Deadline.Until(() => plain.Counters.SendLost == 1, "the frame to be lost");
                Deadline.Until(() => card.Counters.ReceivedFrames == 3 && virtuals.Counters.ReceivedFrames == 1 && plain.Counters.ReceivedFrames == 1, "the frames to come");
            }

            Assert.Equal("rx 3/240/0 tx 1/60/0", Read(rig, physical));
            Assert.Equal("rx 0/0/1 tx 0/0/0", Read(rig, PathOf(rig, "nicv0")));
            Assert.Equal("rx 1/60/0 tx 2/150/0", Read(rig, PathOf(rig, "nicv1")));
            Assert.Equal("rx 1/60/0 tx 1/90/1", Read(rig, PathOf(rig, "one")));
            // Another device for the same hardware.
            await rig.Fabric.Tree.WriteAsync(PathOf(rig, "one") + "/remove", "1", TestContext.Current.CancellationToken);
            await rig.Pci.RescanAsync();
            Assert.Equal("rx 1/60/0 tx 1/90/1", Read(rig, PathOf(rig, "one")));
            foreach (var device in rig.Pci.Devices.Cast<PciDevice>())
                Assert.Equal(device.Label is "nic" or "nicv0" or "nicv1" or "one", ((TreeDirectory)rig.Fabric.Tree.Find(device.DevPath)).List().Any(static n => n.Name == "statistics"));
            Assert.Throws<VirtbusException>(() => ((TreeFile)rig.Fabric.Tree.Find(physical + "/statistics/rx_bytes")).WriteAsync("0").AsTask().GetAwaiter().GetResult());
        }

        await loader.UnloadAllAsync();
    }

    private static VirtioNetDevice ModelOf(VirtioFunctions functions, string name) => (VirtioNetDevice)((VirtioFunction)functions.Parts.Single(p => p.Name == name).Function).Device;

    private static string PathOf(FabricRig rig, string label) => rig.Pci.Devices.Cast<PciDevice>().Single(d => d.Label == label).DevPath;

    private static string Read(FabricRig rig, string path)
    {
        return $"rx {Get("rx_packets")}/{Get("rx_bytes")}/{Get("rx_dropped")} tx {Get("tx_packets")}/{Get("tx_bytes")}/{Get("tx_dropped")}";

        string Get(string name) => rig.Fabric.Tree.Read($"{path}/statistics/{name}").TrimEnd('\n');
    }

    private static void Send(VirtioNetUser user, VirtioNetDevice device, ulong to, ulong from, int length)
    {
        var frame = new byte[length];
        VirtioNetConfig.WriteMac(frame, to);
        VirtioNetConfig.WriteMac(frame.AsSpan(6), from);
        (frame[12], frame[13]) = (0x88, 0xB5);
        var sent = device.Counters.SentFrames;
        user.Send(frame);
        Deadline.Until(() => device.Counters.SentFrames == sent + 1, "the frame to be sent");
    }
}
