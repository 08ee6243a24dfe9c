using Virtbus.Buses.Pci;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Platform;
using Virtbus.Virtio.Admin;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>One method a command: what each tells the device, byte by byte, and what comes back. VA-08, VA-11.</summary>
public sealed class VirtioPciAdminCommandTests
{
    [Fact]
    public async Task Legacy_registers_are_read_and_written_by_field()
    {
        await using var rig = await AdminRig.StartAsync();
        var vf = await rig.EnableAsync();
        Assert.True(VirtioPciAdmin.HasLegacyIo(vf));
        rig.Script.Clear();
        Assert.True(VirtioPciAdmin.TryLegacyCommonWrite(vf, 14, [0x34, 0x12], out _));
        Assert.True(VirtioPciAdmin.TryLegacyDeviceWrite(vf, 3, [0x56], out _));
        var (word, data) = (new byte[2], new byte[] { 9, 9, 9, 9 });
        Assert.True(VirtioPciAdmin.TryLegacyCommonRead(vf, 14, word, out _));
        Assert.True(VirtioPciAdmin.TryLegacyDeviceRead(vf, 2, data, out var fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal([0x34, 0x12], word);
        Assert.Equal([0, 0x56, 0, 0], data);
        Assert.Equal(["2:2:0e000000000000003412", "4:2:030000000000000056", "3:2:0e00000000000000", "5:2:0200000000000000"], rig.Script.Calls);
        // Each virtual function has its own.
        Assert.True(VirtioPciAdmin.TryLegacyCommonRead(rig.Owner.VirtualFunctions[0], 14, word, out _));
        Assert.Equal([0, 0], word);
        Assert.StartsWith("3:1:", rig.Script.Calls[^1], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Places_of_notifications_that_are_none_are_left_out()
    {
        await using var rig = await AdminRig.StartAsync();
        var vf = await rig.EnableAsync();
        const byte Owner = LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_DEV;
        const byte Member = LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM;
        var (there, size) = FirstMemory(vf);
        var (mine, mineSize) = FirstMemory(rig.Owner);
        var absent = (byte)Enumerable.Range(1, 5).First(i => vf.GetRegion(i).Bar.Size == 0);
        LegacyNotifyInfo best = new(Member, there, size - 2), other = new(Owner, mine, mineSize - 2);
        foreach (var (places, expected) in new (LegacyNotifyInfo[] Places, LegacyNotifyInfo[] Expected)[]
        {
            ([], []),
            ([best, other], [best, other]),
            ([best, default, other], [best]),
            ([new(3, there, 0), best], [best]),
            ([new(255, there, 0), best], [best]),
            ([new(Member, 0, 0), best], [best]),
            ([new(Member, 6, 0), best], [best]),
            ([new(Member, 255, 0), best], [best]),
            ([new(Member, absent, 0), best], [best]),
            ([new(Member, there, 1), best], [best]),
            ([new(Member, there, size), best], [best]),
            ([new(Member, there, ulong.MaxValue - 1), best], [best]),
            ([new(Owner, mine, mineSize), other], [other]),
            ([best, best, best, other], [best, best, best, other]),
        })
        {
            rig.Script.Places = places;
            var found = new LegacyNotifyInfo[4];
            Assert.True(VirtioPciAdmin.TryLegacyNotifyInfo(vf, found, out var count, out _));
            Assert.Equal(expected, found[..count]);
        }

        rig.Script.Places = [best, other];
        Assert.True(VirtioPciAdmin.TryLegacyNotifyInfo(vf, new LegacyNotifyInfo[1], out var one, out _));
        Assert.Equal(1, one);
        Assert.Equal("6:2:", rig.Script.Calls[^1]);
    }

    [Fact]
    public async Task State_is_read_set_and_held_still()
    {
        await using var rig = await AdminRig.StartAsync();
        var vf = await rig.EnableAsync();
        Assert.True(VirtioPciAdmin.HasDeviceParts(vf));
        rig.Script.Clear();
        Assert.True(VirtioPciAdmin.TryModeSet(vf, true, out _));
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsGet, out var get, out _));
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsSet, out var set, out _));
        Assert.Equal((0u, 1u), (get, set));
        Assert.True(VirtioPciAdmin.TryDevicePartsSize(vf, get, out var size, out _));
        Assert.Equal(9u, size);
        var parts = new byte[20];
        Assert.True(VirtioPciAdmin.TryDevicePartsGet(vf, get, parts, out var count, out _));
        Assert.Equal([1, 2, 3, 4, 5, 6, 7, 8, 9], parts[..count]);
        Assert.False(VirtioPciAdmin.TryDevicePartsGet(vf, get, new byte[8], out count, out var fault));
        Assert.Equal((0, Errno.ENOMEM), (count, fault.Errno));
        Assert.True(VirtioPciAdmin.TryDevicePartsSet(vf, set, [0xA, 0xB, 0xC], out _));
        Assert.Equal([0xA, 0xB, 0xC], rig.Script.State);
        Assert.True(VirtioPciAdmin.TryDevicePartsDestroy(vf, set, out _));
        Assert.True(VirtioPciAdmin.TryModeSet(vf, false, out _));
        Assert.Equal(
            [
                "11:2:0100000000000000",
                "a:2:000000000000000000000000000000000000000000000000",
                "a:2:000000000100000000000000000000000100000000000000",
                "e:2:00000000000000000000000000000000",
                "f:2:00000000000000000100000000000000",
                "f:2:00000000000000000100000000000000",
                "10:2:00000000010000000a0b0c",
                "d:2:0000000001000000",
                "11:2:0000000000000000",
            ],
            rig.Script.Calls);
    }

    [Fact]
    public async Task Objects_are_as_many_as_were_agreed_on_and_each_its_virtual_functions_own()
    {
        await using var rig = await AdminRig.StartAsync();
        var vf = await rig.EnableAsync();
        var other = rig.Owner.VirtualFunctions[0];
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsGet, out var first, out _));
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(other, ResourceObject.PartsGet, out var second, out _));
        Assert.NotEqual(first, second);
        Assert.False(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsSet, out _, out var fault));
        Assert.Equal(Errno.ENOSPC, fault.Errno);
        rig.Script.Clear();
        // One that is another's, and one that there is not.
        foreach (var id in new[] { second, 77u, uint.MaxValue })
        {
            Assert.False(VirtioPciAdmin.TryDevicePartsDestroy(vf, id, out fault));
            Assert.Equal(Errno.ENXIO, fault.Errno);
            Assert.False(VirtioPciAdmin.TryDevicePartsGet(vf, id, new byte[9], out _, out fault));
            Assert.Equal(Errno.ENXIO, fault.Errno);
            Assert.False(VirtioPciAdmin.TryDevicePartsSet(vf, id, [1], out fault));
            Assert.Equal(Errno.ENXIO, fault.Errno);
        }

        Assert.Empty(rig.Script.Calls);
        Assert.True(VirtioPciAdmin.TryDevicePartsDestroy(other, second, out _));
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsSet, out var third, out _));
        Assert.Equal(second, third);
        // The device lost one: its number is free all the same.
        rig.Script.Reset();
        Assert.False(VirtioPciAdmin.TryDevicePartsDestroy(vf, third, out fault));
        Assert.Equal(Errno.ENXIO, fault.Errno);
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsSet, out third, out _));
        Assert.Equal(second, third);
        // One that the device refuses is no object.
        rig.Script.Reset();
        Assert.True(VirtioPciAdmin.TryDevicePartsDestroy(vf, third, out _) || rig.Script.Objects == 0);
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsSet, out third, out _));
        // They go with the virtual functions.
        await rig.DisableAsync();
        rig.Script.Reset();
        vf = await rig.EnableAsync();
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsGet, out first, out _));
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(vf, ResourceObject.PartsGet, out second, out _));
        Assert.Equal((0u, 1u), (first, second));
    }

    private static (byte Bar, ulong Size) FirstMemory(PciDevice device)
    {
        var bar = Enumerable.Range(1, 5).First(i => device.GetRegion(i).Bar.Size > 0);
        return ((byte)bar, device.GetRegion(bar).Bar.Size);
    }
}
