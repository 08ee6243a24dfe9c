using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Drivers.VirtioVfioPci;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A thousand rounds of what the variant and the administration queue do: nothing of the process is more afterwards, and no object of a round lives.</summary>
[Collection(nameof(Alone))]
public sealed class VirtioVfioLeakTests(ITestOutputHelper output)
{
    private const int Rounds = 1000;
    // Until what is made once, and kept, is there.
    private const int First = 30;
    private const uint MsixIndex = 2;
    // Whose objects may be in use yet: the last round's, and a step's before it.
    private const int Alive = 3;

    [Fact]
    public async Task Thousand_binds_of_the_variant_with_a_user_each_leave_nothing_behind()
    {
        await using var rig = await StartAsync();
        var physical = await PlugAsync(rig);
        var function = physical.VirtualFunctions[0];
        await CountAsync(rig, physical, async () =>
        {
            await rig.Base.BindAsync(function, "virtio-vfio-pci");
            var objects = Use(function);
            await rig.Fabric.UnbindAsync(function.Driver!, function.Name).In();
            return objects;
        });
        Assert.Equal(0, physical.Dma.Faults + function.Dma.Faults);
    }

    [Fact]
    public async Task Thousand_activations_of_the_queue_leave_nothing_behind()
    {
        await using var rig = await StartAsync();
        var physical = await PlugAsync(rig);
        var pci = physical.Driver!;
        var round = 0;
        await CountAsync(rig, physical, async () =>
        {
            var virtio = rig.Base.Virtio.Devices.Single();
            // In the first half each tenth with the whole physical function, whose virtual ones go with its driver; that takes along what the second half must not leave.
            if (++round % 10 == 0 && round < Rounds / 2)
            {
                await rig.Fabric.UnbindAsync(pci, physical.Name).In();
                await rig.Fabric.BindAsync(pci, physical.Name).In();
                await rig.Fabric.SettleAsync().In();
                await EnableAsync(rig, physical);
            }
            else
            {
                var net = virtio.Driver!;
                await rig.Fabric.UnbindAsync(net, virtio.Name).In();
                Assert.False(VirtioPciAdmin.HasLegacyIo(physical.VirtualFunctions[0]));
                await rig.Fabric.BindAsync(net, virtio.Name).In();
            }

            return Administer(rig, physical);
        });
        Assert.Equal(0, physical.Dma.Faults);
    }

    private static async Task<VirtioRig> StartAsync()
    {
        var rig = await VirtioRig.StartAsync();
        await rig.Base.InitModuleAsync(new VirtioVfioPciModule(), "virtio_vfio_pci");
        return rig;
    }

    private static async Task<PciDevice> PlugAsync(VirtioRig rig)
    {
        var lan = new EthernetSwitch();
        var physical = await rig.PlugAsync(new VirtioFunction(
            new VirtioNetDevice("nic", lan, new VirtioNetOptions(VirtioVfioMachine.Here)),
            new VirtioFunctionOptions { VirtualFunctions = 2 },
            index => new VirtioNetDevice($"nicv{index}", lan, new VirtioNetOptions(VirtioVfioMachine.There + (ulong)index))));
        await rig.Fabric.Tree.WriteAsync(physical.DevPath + "/sriov_drivers_autoprobe", "0").In();
        await EnableAsync(rig, physical);
        return physical;
    }

    private static async Task EnableAsync(VirtioRig rig, PciDevice physical)
    {
        if (physical.VirtualFunctions.Count > 0)
            return;
        await rig.Fabric.Tree.WriteAsync(physical.DevPath + "/sriov_numvfs", "2").In();
        await rig.Fabric.SettleAsync().In();
    }

    // Opened, used in all its ways, and closed. What is returned may not live on.
    private static WeakReference[] Use(PciDevice function)
    {
        var device = VfioPciWorld.DeviceOf(function);
        using var user = VfioPciWorld.Open(function);
        using (var driver = new OldNetUser(user))
        {
            driver.Start();
            driver.Offer();
            using var signal = new EventFd();
            user.SetTrigger(MsixIndex, 0, signal);
            Assert.True(user.Handle.Migration!.TrySetState(VfioMigrationState.StopCopy, out var stream, out var fault), fault.Message);
            var state = new byte[8192];
            Assert.True(stream!.TryRead(state, out var count, out fault), fault.Message);
            Assert.True(user.Handle.Migration.TrySetState(VfioMigrationState.Resuming, out var into, out fault), fault.Message);
            Assert.True(into!.TryWrite(state.AsSpan(0, count), out fault), fault.Message);
            Assert.True(user.Handle.Migration.TrySetState(VfioMigrationState.Running, out _, out fault), fault.Message);
            Assert.False(user.Handle.TryWrite(0, 16, [1], out _));
        }

        return [new(device), new(user.Handle), new(user.Handle.Migration), new(function.GetDriverData<object>())];
    }

    private static WeakReference[] Administer(VirtioRig rig, PciDevice physical)
    {
        var function = physical.VirtualFunctions[0];
        Assert.True(VirtioPciAdmin.HasLegacyIo(function) && VirtioPciAdmin.HasDeviceParts(function));
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(function, 0, out var id, out var fault), fault.Message);
        Assert.True(VirtioPciAdmin.TryDevicePartsGet(function, id, new byte[8192], out _, out fault), fault.Message);
        // The object for parts goes with the queue.
        var virtio = (VirtioBusDevice)rig.Base.Virtio.Devices.Single();
        return [new(virtio.GetDriverData<object>()), new(virtio.Queues[0])];
    }

    private async Task CountAsync(VirtioRig rig, PciDevice physical, Func<Task<WeakReference[]>> round)
    {
        var objects = new List<WeakReference[]>();
        for (var i = 0; i < First; i++)
            await round();
        var before = Count(rig, physical);
        for (var i = 0; i < Rounds; i++)
            objects.Add(await round());
        var after = Count(rig, physical);
        output.WriteLine($"{before}; {after}");
        // Threads end a moment after their work.
        await Deadline.UntilAsync(() => (after = Count(rig, physical)).Threads <= before.Threads, "threads to end");
        Assert.True(
            after.Descriptors <= before.Descriptors && after.Mappings <= before.Mappings && after.Timers <= before.Timers && after.Reached == before.Reached,
            $"{before} before, {after} after");
        for (var kind = 0; kind < objects[0].Length; kind++)
            Assert.InRange(objects.Count(o => o[kind].IsAlive), 0, Alive);
    }

    private static Held Count(VirtioRig rig, PciDevice physical)
    {
        Leftovers.Clear();
        return new Held(
            Directory.GetFiles("/proc/self/fd").Length,
            File.ReadLines("/proc/self/maps").Count(static l => l.Contains("memfd:", StringComparison.Ordinal) && !l.Contains("memfd:doublemapper", StringComparison.Ordinal)),
            rig.Base.Time.Timers,
            physical.Dma.AddressSpace!.Count,
            Directory.GetDirectories("/proc/self/task").Count(static t => IsOurs(t)));
    }

    // The pool's threads, and the runtime's, are as many as they like.
    private static bool IsOurs(string thread)
    {
        try
        {
            return !File.ReadAllText(thread + "/comm").StartsWith(".NET", StringComparison.Ordinal);
        }
        catch (IOException)
        {
            return false;
        }
    }

    private sealed record Held(int Descriptors, int Mappings, int Timers, int Reached, int Threads);
}
