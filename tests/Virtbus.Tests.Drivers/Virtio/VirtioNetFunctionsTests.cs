using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>What virtual functions of a network card say, read by who has the physical one through the commands of a device that is no test's. VA-10.</summary>
public sealed class VirtioNetFunctionsTests
{
    private const ulong Mac = 0x02_11_22_33_44_00;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Virtual_functions_are_seen_below_the_network_device_of_the_physical_one(bool isStrict)
    {
        await using var rig = await VirtioRig.StartAsync();
        var models = new VirtioNetDevice[2];
        var (owner, path) = await PlugAsync(rig, new VirtioFunctionOptions { VirtualFunctions = 2, IsAdminStrict = isStrict }, models);
        Expect.Refused(Errno.ENOENT, () => rig.Fabric.Tree.Find(path));
        await rig.Fabric.Tree.WriteAsync(owner.DevPath + "/sriov_numvfs", "2").In();
        Assert.Equal(["vf0", "vf1"], ((TreeDirectory)rig.Fabric.Tree.Find(path)!).List().Select(static n => n.Name));
        Assert.Equal("02:11:22:33:44:02\n", rig.Base.Read(path + "/vf1/mac"));
        Assert.Equal("up\n", rig.Base.Read(path + "/vf1/link"));
        Assert.Equal($"0x{models[1].DeviceFeatures.Word(0) | (1u << VirtioLegacyConfig.VIRTIO_F_ANY_LAYOUT):x8}\n", rig.Base.Read(path + "/vf1/features"));
        models[1].SetLink(false);
        Assert.Equal("down\n", rig.Base.Read(path + "/vf1/link"));
        Assert.Equal("up\n", rig.Base.Read(path + "/vf0/link"));
        Assert.Matches("^0x[0-9a-f]{2}\n$", rig.Base.Read(path + "/vf0/status"));
        var vf = owner.VirtualFunctions[0];
        await rig.Fabric.UnbindAsync(vf.Driver!, vf.Name).In();
        Assert.Equal("0x00\n", rig.Base.Read(path + "/vf0/status"));
        Assert.True(VirtioPciAdmin.TryLegacyCommonWrite(vf, 18, [3], out _));
        Assert.Equal("0x03\n", rig.Base.Read(path + "/vf0/status"));
        await rig.Fabric.Tree.WriteAsync(owner.DevPath + "/sriov_numvfs", "0").In();
        Expect.Refused(Errno.ENOENT, () => rig.Fabric.Tree.Find(path));
    }

    [Fact]
    public async Task Place_of_notifications_that_the_device_names_is_taken_as_it_is()
    {
        await using var rig = await VirtioRig.StartAsync();
        var (owner, _) = await PlugAsync(rig, new VirtioFunctionOptions { VirtualFunctions = 2 }, new VirtioNetDevice[2]);
        await rig.Fabric.Tree.WriteAsync(owner.DevPath + "/sriov_numvfs", "2").In();
        var places = new LegacyNotifyInfo[AdminLegacyLayout.NotifyEntries];
        Assert.True(VirtioPciAdmin.TryLegacyNotifyInfo(owner.VirtualFunctions[1], places, out var count, out _));
        Assert.Equal((1, LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM), (count, places[0].Flags));
        // A field that is none is the device's to refuse.
        Assert.False(VirtioPciAdmin.TryLegacyCommonRead(owner.VirtualFunctions[1], 18, new byte[2], out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public async Task Card_without_administration_queue_shows_none()
    {
        await using var rig = await VirtioRig.StartAsync();
        var (owner, path) = await PlugAsync(rig, new VirtioFunctionOptions { VirtualFunctions = 2, HasAdminQueue = false }, new VirtioNetDevice[2]);
        await rig.Fabric.Tree.WriteAsync(owner.DevPath + "/sriov_numvfs", "2").In();
        Expect.Refused(Errno.ENOENT, () => rig.Fabric.Tree.Find(path));
        Assert.False(VirtioPciAdmin.HasLegacyIo(owner.VirtualFunctions[0]));
    }

    [Fact]
    public async Task State_of_a_virtual_function_is_read_and_set_as_it_was()
    {
        await using var rig = await VirtioRig.StartAsync();
        var (owner, _) = await PlugAsync(rig, new VirtioFunctionOptions { VirtualFunctions = 2 }, new VirtioNetDevice[2]);
        await rig.Fabric.Tree.WriteAsync(owner.DevPath + "/sriov_numvfs", "1").In();
        var vf = owner.VirtualFunctions[0];
        Assert.True(VirtioPciAdmin.HasDeviceParts(vf));
        Assert.True(VirtioPciAdmin.TryModeSet(vf, true, out var fault), fault.Message);
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsGet, out var get, out fault), fault.Message);
        Assert.True(VirtioPciAdmin.TryDevicePartsSize(vf, get, out var size, out fault), fault.Message);
        var parts = new byte[size];
        Assert.True(VirtioPciAdmin.TryDevicePartsGet(vf, get, parts, out var count, out fault), fault.Message);
        Assert.InRange(count, DevicePart.Size, (int)size);
        Assert.False(VirtioPciAdmin.TryDevicePartsGet(vf, get, new byte[DevicePart.Size], out _, out fault));
        Assert.Equal(Errno.ENOMEM, fault.Errno);
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsSet, out var set, out fault), fault.Message);
        Assert.True(VirtioPciAdmin.TryDevicePartsSet(vf, set, parts.AsSpan(0, count), out fault), fault.Message);
        var again = new byte[size];
        Assert.True(VirtioPciAdmin.TryDevicePartsGet(vf, get, again, out var second, out fault), fault.Message);
        Assert.Equal(parts[..count], again[..second]);
        Assert.True(VirtioPciAdmin.TryDevicePartsDestroy(vf, get, out fault), fault.Message);
        Assert.True(VirtioPciAdmin.TryDevicePartsDestroy(vf, set, out fault), fault.Message);
        Assert.True(VirtioPciAdmin.TryModeSet(vf, false, out fault), fault.Message);
    }

    private static async Task<(PciDevice Owner, string Path)> PlugAsync(VirtioRig rig, VirtioFunctionOptions options, VirtioNetDevice[] models)
    {
        var lan = new EthernetSwitch();
        var owner = await rig.PlugAsync(new VirtioFunction(
            new VirtioNetDevice("net", lan, new VirtioNetOptions(Mac)), options, i => models[i] = new VirtioNetDevice($"net{i}", lan, new VirtioNetOptions(Mac + 1 + (ulong)i))));
        return (owner, rig.Only.DevPath + "/vfs");
    }
}
