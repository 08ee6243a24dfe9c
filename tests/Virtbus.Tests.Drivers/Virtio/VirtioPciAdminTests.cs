using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>The administration queue in the life of a function: made, agreed on, asked anew, deleted, each for itself. VA-01 to VA-06.</summary>
public sealed class VirtioPciAdminTests
{
    private static readonly string[] Agreement =
    [
        "0:0:", $"1:0:{AllOf(AdminCommandSet.Lists | AdminCommandSet.Legacy | AdminCommandSet.DeviceParts)}",
        "0:self:", $"1:self:{AllOf(AdminCommandSet.Lists | AdminCommandSet.Capabilities)}",
        "7:self:", "8:self:0000000000000000", "9:self:00000000000000000202000000000000",
    ];

    [Theory]
    [InlineData(null, 3)]
    [InlineData(2, 2)]
    [InlineData(0, 1)]
    public async Task Queue_is_made_beside_the_drivers_with_a_vector_of_its_own_where_there_is_one(int? vectors, int expected)
    {
        await using var rig = await AdminRig.StartAsync(vectors is null ? 3 : vectors);
        Assert.Equal(Agreement, rig.Script.Calls);
        Assert.Equal(expected, rig.Owner.Vectors.Count);
        Assert.True(rig.Base.Only.Has(VirtioFeatures.VIRTIO_F_ADMIN_VQ));
        // It is none of the driver's, which does its work.
        Assert.Equal(0, Assert.Single(rig.Base.Only.Queues).Index);
        Assert.Equal(10, rig.Base.Read(10).Length);
        var function = await rig.EnableAsync();
        Assert.True(VirtioPciAdmin.HasLegacyIo(function));
    }

    [Fact]
    public async Task Device_is_asked_again_when_it_has_virtual_functions_and_not_about_itself()
    {
        await using var rig = await AdminRig.StartAsync(configure: static r => r.Script.HasMembers = false);
        Assert.Equal(["0:0:", .. Agreement[2..]], rig.Script.Calls);
        for (var i = 0; i < 2; i++)
        {
            rig.Script.Clear();
            var function = await rig.EnableAsync();
            Assert.True(VirtioPciAdmin.HasLegacyIo(function));
            Assert.True(VirtioPciAdmin.HasDeviceParts(function));
            Assert.True(VirtioPciAdmin.TryModeSet(function, true, out _));
            // Once for each time that they are enabled.
            Assert.Equal([.. Agreement[..2], "11:2:0100000000000000"], rig.Script.Calls);
            await rig.DisableAsync();
        }
    }

    [Fact]
    public async Task Commands_that_go_together_are_taken_together_or_not()
    {
        await using var rig = await AdminRig.StartAsync();
        foreach (var (has, legacy, parts) in new[]
        {
            (AdminCommandSet.Lists | AdminCommandSet.Legacy, true, false),
            (AdminCommandSet.Lists | AdminCommandSet.DeviceParts, false, true),
            (AdminCommandSet.Lists | AdminCommandSet.LegacyAccess, false, false),
            (new AdminCommandSet((AdminCommandSet.Lists | AdminCommandSet.Legacy | AdminCommandSet.DeviceParts).Bits & ~0x2020UL), false, false),
            (new AdminCommandSet(ulong.MaxValue), true, true),
            (default, false, false),
        })
        {
            rig.Script.ForMembers = has;
            var function = await rig.EnableAsync();
            Assert.Equal((legacy, parts), (VirtioPciAdmin.HasLegacyIo(function), VirtioPciAdmin.HasDeviceParts(function)));
            var known = AdminCommandSet.Lists | AdminCommandSet.Legacy | AdminCommandSet.DeviceParts;
            // Nothing that it did not offer, nothing unknown, nothing that is of no use alone.
            Assert.True(has.HasAll(rig.Script.InUse) && known.HasAll(rig.Script.InUse));
            Assert.Equal(rig.Script.InUse.HasAll(AdminCommandSet.LegacyAccess), (rig.Script.InUse & AdminCommandSet.Legacy).Bits != 0);
            Assert.Equal(parts, (rig.Script.InUse & AdminCommandSet.DeviceParts).Bits != 0);
            if (!legacy && !has.HasAll(AdminCommandSet.LegacyAccess))
            {
                Assert.False(VirtioPciAdmin.TryLegacyCommonRead(function, 0, new byte[4], out var fault));
                Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
            }

            await rig.DisableAsync();
        }
    }

    [Theory]
    [InlineData(0, 2, 3)]
    [InlineData(1, 0, 3)]
    [InlineData(1, 3, 0)]
    public async Task Device_without_objects_has_no_parts(byte capabilities, byte get, byte set)
    {
        await using var rig = await AdminRig.StartAsync(configure: r =>
        {
            r.Script.Capabilities = capabilities;
            r.Script.Limits = new DevicePartsCapability(get, set);
        });
        var function = await rig.EnableAsync();
        Assert.False(VirtioPciAdmin.HasDeviceParts(function));
        Assert.True(VirtioPciAdmin.HasLegacyIo(function));
        Assert.False(VirtioPciAdmin.TryDevicePartsCreate(function, ResourceObject.PartsGet, out _, out var fault));
        Assert.Equal(Errno.ENOSPC, fault.Errno);
        Assert.DoesNotContain(rig.Script.Calls, static c => c.StartsWith("9:", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Function_without_a_physical_one_of_ours_has_no_commands()
    {
        await using var rig = await AdminRig.StartAsync();
        var function = await rig.EnableAsync();
        // No virtual function at all.
        AssertNone(rig.Owner);
        Assert.True(VirtioPciAdmin.HasLegacyIo(function));
        // Its physical one has another driver, with data of another kind.
        var transport = (PciDriver)rig.Owner.Driver!;
        await rig.Base.Fabric.UnbindAsync(transport, rig.Owner.Name).In();
        AssertNone(function);
        rig.Owner.SetDriverData("mine");
        AssertNone(function);
        rig.Owner.SetDriverData<string>(null);
    }

    [Fact]
    public async Task Feature_that_is_not_taken_makes_no_queue()
    {
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioPciModule(), "virtio_pci");
        var driver = new ProbeDriver(rig.Virtio, VirtioDeviceId.VIRTIO_ID_RNG)
        {
            Choice = static features => features.Without(VirtioFeatures.VIRTIO_F_ADMIN_VQ),
            OnProbe = static device =>
            {
                device.CreateQueues(new VirtioQueueSpec("input", static _ => { }));
                return default;
            },
        };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        var script = new AdminScript();
        var device = await rig.PlugAsync(new VirtioFunction(new AdministeredDevice("dice", script)));
        await rig.Fabric.SettleAsync().In();
        Assert.NotNull(Assert.Single(rig.Virtio.Devices).Driver);
        Assert.Equal(2, device.Vectors.Count);
        Assert.Empty(script.Calls);
    }

    [Fact]
    public async Task Legacy_transport_never_makes_one()
    {
        await using var rig = await VirtioRig.StartAsync();
        var function = SpoiledFunction.WithoutCapabilities(new VirtioFunction(new VirtioRngDevice("dice"), new VirtioFunctionOptions { IsTransitional = true }));
        // Whatever its feature bits are.
        function.Bar = static (bar, offset, bytes) =>
        {
            if (bar == 0 && offset == 0 && bytes.Length == 4)
                bytes.Fill(0xFF);
        };
        var device = await rig.PlugAsync(function);
        Assert.True(rig.Only.IsLegacy);
        Assert.False(rig.Only.Has(VirtioFeatures.VIRTIO_F_ADMIN_VQ));
        Assert.Equal(2, device.Vectors.Count);
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(0, 1)]
    [InlineData(0xFFFF, 2)]
    [InlineData(2, 1)]
    public async Task Queue_that_can_not_be_is_refused_and_leaves_nothing_behind(int first, int count)
    {
        await using var rig = await AdminRig.StartAsync(configure: r => r.Queues = ((ushort)first, (ushort)count));
        Assert.Null(rig.Base.Only.Driver);
        Assert.Contains(first == 2 ? "no virtio queue 2" : "administration queues", rig.Base.Only.ProbeFailure, StringComparison.Ordinal);
        Assert.Empty(rig.Owner.Vectors);
        Assert.Empty(rig.Script.Calls);
        using var map = rig.Owner.Dma.Snapshot();
        Assert.Equal(0, map.Ranges.Length);
    }

    [Fact]
    public async Task Common_configuration_that_ends_before_its_fields_is_refused()
    {
        await using var rig = await AdminRig.StartAsync();
        var transport = (PciDriver)rig.Owner.Driver!;
        await rig.Base.Fabric.UnbindAsync(transport, rig.Owner.Name).In();
        var at = SpoiledFunction.Find(rig.Function, VirtioPciCapability.VIRTIO_PCI_CAP_COMMON_CFG);
        rig.Function.Config = (offset, bytes) => SpoiledFunction.Put(offset, bytes, at + 12, VirtioCommonConfig.admin_queue_num, 4);
        await rig.Base.Fabric.BindAsync(transport, rig.Owner.Name).In();
        await rig.Base.Fabric.SettleAsync().In();
        Assert.Contains(nameof(VirtioFeatures.VIRTIO_F_ADMIN_VQ), rig.Base.Only.ProbeFailure, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Freeze_deletes_it_and_after_the_restore_it_is_agreed_on_anew()
    {
        await using var rig = await AdminRig.StartAsync();
        var function = await rig.EnableAsync();
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(function, ResourceObject.PartsGet, out var id, out _));
        rig.Script.Clear();
        var device = rig.Base.Only;
        device.Reset();
        // The driver's are gone, and so is this one, each by itself; nothing of either is left to the device.
        Assert.Empty(device.Queues);
        Assert.False(VirtioPciAdmin.HasLegacyIo(function));
        Assert.False(VirtioPciAdmin.TryDevicePartsDestroy(function, id, out var fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        Assert.Empty(rig.Script.Calls);
        Assert.Empty(rig.Owner.Vectors);
        await rig.DisableAsync();
        await rig.Base.Fabric.UnbindAsync(rig.Base.Only.Driver!, rig.Base.Only.Name).In();
        await rig.Base.Fabric.BindAsync((VirtioDriver)rig.Base.Fabric.GetBus<VirtioBus>().Drivers.Single(static d => d.Name == VirtioRig.Rng), device.Name).In();
        rig.Script.Clear();
        function = await rig.EnableAsync();
        Assert.True(VirtioPciAdmin.HasDeviceParts(function));
        // The object went with the reset, and its number is free.
        Assert.False(VirtioPciAdmin.TryDevicePartsDestroy(function, id, out fault));
        Assert.Equal(Errno.ENXIO, fault.Errno);
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(function, ResourceObject.PartsGet, out id, out _));
        Assert.Equal(0u, id);
    }

    [Fact]
    public async Task Sleep_takes_it_away_and_the_wake_brings_it_back()
    {
        await using var rig = await AdminRig.StartAsync();
        rig.Script.Clear();
        await rig.Base.Fabric.SuspendAsync().In();
        Assert.Empty(rig.Script.Calls);
        Assert.Empty(rig.Owner.Vectors);
        await rig.Base.Fabric.ResumeAsync().In();
        Assert.Equal(Agreement, rig.Script.Calls);
        Assert.True(VirtioPciAdmin.HasDeviceParts(await rig.EnableAsync()));
    }

    [Theory]
    [InlineData("unbind", Errno.EIO)]
    [InlineData("pull", Errno.ENODEV)]
    [InlineData("reset", Errno.EIO)]
    [InlineData("late", Errno.ETIMEDOUT)]
    public async Task Command_under_which_the_physical_function_goes_ends_at_once(string way, Errno errno)
    {
        await using var rig = await AdminRig.StartAsync();
        var function = await rig.EnableAsync();
        Assert.True(VirtioPciAdmin.HasLegacyIo(function));
        rig.Script.Silent = AdminOpcode.VIRTIO_ADMIN_CMD_DEV_MODE_SET;
        var fault = Fault.None;
        var waiting = Task.Factory.StartNew(() => VirtioPciAdmin.TryModeSet(function, true, out fault), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        await Deadline.UntilAsync(() => rig.Script.Calls.Any(static c => c.StartsWith("11:", StringComparison.Ordinal)), "the command");
        var going = way switch
        {
            "unbind" => rig.Base.Fabric.UnbindAsync(rig.Owner.Driver!, rig.Owner.Name).AsTask(),
            "pull" => rig.Base.Base.Pci.SurpriseRemoveAsync(rig.Owner).AsTask(),
            "reset" => rig.Base.Fabric.Tree.WriteAsync(rig.Owner.DevPath + "/reset", "1").AsTask(),
            _ => Task.CompletedTask,
        };
        if (way == "late")
            rig.Base.Base.Time.Advance(VirtioPciAdminQueue.Patience);
        Assert.False(await waiting.In());
        Assert.Equal(errno, fault.Errno);
        await going.In();
        rig.Script.Silent = null;
        Assert.Equal(way == "reset", VirtioPciAdmin.HasLegacyIo(function));
    }

    [Fact]
    public async Task Device_that_is_being_reset_gets_no_command()
    {
        await using var rig = await AdminRig.StartAsync();
        var function = await rig.EnableAsync();
        Assert.True(VirtioPciAdmin.TryModeSet(function, true, out _));
        rig.Script.Clear();
        Errno? errno = null;
        rig.Function.OnWrite = (_, offset, length) =>
        {
            if (offset != VirtioCommonConfig.device_status || length != 1 || errno is not null)
                return;
            errno = VirtioPciAdmin.TryModeSet(function, true, out var fault) ? Errno.None : fault.Errno;
        };
        rig.Base.Only.Reset();
        Assert.NotNull(errno);
        Assert.NotEqual(Errno.None, errno);
        Assert.Empty(rig.Script.Calls);
        rig.Function.OnWrite = null;
    }

    [Fact]
    public async Task Device_that_never_answers_the_first_question_is_driven_without_commands()
    {
        AdminRig? seen = null;
        // The probe waits for it, on its thread.
        var rigs = Task.Run(() => AdminRig.StartAsync(configure: r =>
        {
            r.Script.Silent = AdminOpcode.VIRTIO_ADMIN_CMD_LIST_QUERY;
            Volatile.Write(ref seen, r);
        }));
        await Deadline.UntilAsync(() => Volatile.Read(ref seen)?.Script.Calls.Count == 1, "the question");
        seen!.Base.Base.Time.Advance(VirtioPciAdminQueue.Patience);
        await using var rig = await rigs.In();
        Assert.NotNull(rig.Base.Only.Driver);
        Assert.Equal(10, rig.Base.Read(10).Length);
        Assert.False(VirtioPciAdmin.HasLegacyIo(await rig.EnableAsync()));
    }

    private static void AssertNone(PciDevice function)
    {
        Assert.False(VirtioPciAdmin.HasLegacyIo(function));
        Assert.False(VirtioPciAdmin.HasDeviceParts(function));
        Assert.False(VirtioPciAdmin.TryLegacyCommonWrite(function, 0, [1], out var fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        Assert.False(VirtioPciAdmin.TryDevicePartsCreate(function, 0, out _, out fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        Assert.False(VirtioPciAdmin.TryDevicePartsSize(function, 0, out _, out fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        Assert.False(VirtioPciAdmin.TryLegacyNotifyInfo(function, new LegacyNotifyInfo[4], out _, out fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
    }

    private static string AllOf(AdminCommandSet set)
    {
        Span<byte> bytes = stackalloc byte[AdminCommandSet.Size];
        set.Write(bytes);
        return Convert.ToHexStringLower(bytes);
    }
}
