using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Buses.Pci;

/// <summary>The files of a device, with Linux's names, formats and errors.</summary>
public sealed class AttributeTests
{
    [Fact]
    public async Task Values_have_linuxs_formats()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        var values = new Dictionary<string, string>
        {
            ["vendor"] = "0x1af4",
            ["device"] = "0x10f5",
            ["subsystem_vendor"] = "0x1af4",
            ["subsystem_device"] = "0x1100",
            ["revision"] = "0x07",
            ["class"] = "0x020000",
            ["irq"] = "0",
            ["enable"] = "0",
            ["numa_node"] = "-1",
            ["broken_parity_status"] = "0",
            ["msi_bus"] = "1",
            ["power_state"] = "D0",
            ["ari_enabled"] = "1",
            ["current_link_speed"] = "5.0 GT/s PCIe",
            ["current_link_width"] = "4",
            ["max_link_speed"] = "5.0 GT/s PCIe",
            ["max_link_width"] = "4",
            ["dma_owner"] = "none",
            ["dma_faults"] = "0",
            ["driver_override"] = "(null)",
        };
        foreach (var (name, value) in values)
            Assert.Equal($"{name} {value}\n", $"{name} {world.Read($"{device.DevPath}/{name}")}");
        var names = ((TreeDirectory)world.Fabric.Tree.Find(device.DevPath)).List().Select(n => n.Name).ToArray();
        Assert.Equal(names.Length, names.Distinct().Count());
        Assert.Contains("resource0", names);
        Assert.Contains("resource2", names);
        Assert.DoesNotContain("resource1", names);
        Assert.Equal(0x80, ((TreeFile)world.Fabric.Tree.Find(device.DevPath + "/remove")).Mode);
        Assert.Equal("/bus/pci", ((TreeLink)world.Fabric.Tree.Find(device.DevPath + "/subsystem", follow: false)).Target);
    }

    [Fact]
    public async Task Resource_has_a_line_for_each_range_with_start_end_and_flags()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync(new CardOptions { TotalVfs = 8 });
        var lines = world.Read(device.DevPath + "/resource").Split('\n', StringSplitOptions.RemoveEmptyEntries);
        var start = device.GetRegion(0).Start;
        const string Nothing = "0x0000000000000000 0x0000000000000000 0x0000000000000000";
        Assert.Equal(13, lines.Length);
        Assert.Equal($"0x{start:x16} 0x{start + 0x3FFF:x16} 0x000000000014220c", lines[0]);
        Assert.Equal(Nothing, lines[1]);
        Assert.Equal($"0x{device.GetRegion(2).Start:x16} 0x{device.GetRegion(2).Start + 63:x16} 0x0000000000040101", lines[2]);
        Assert.Equal($"0x{device.GetRegion(6).Start:x16} 0x{device.GetRegion(6).Start + 0xFFF:x16} 0x0000000000046200", lines[6]);
        Assert.Matches("^0x00000040[0-9a-f]{8} 0x00000040[0-9a-f]{8} 0x000000000014220c$", lines[7]);
        var words = lines[7].Split(' ');
        Assert.Equal(8UL * 0x4000, Convert.ToUInt64(words[1], 16) - Convert.ToUInt64(words[0], 16) + 1);
        var port = world.Read(device.Parent!.DevPath + "/resource").Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(17, port.Length);
        Assert.Equal("0x0000000000001000 0x0000000000001fff 0x0000000000000101", port[13]);
        Assert.Equal("0x0000000080000000 0x00000000801fffff 0x0000000000000200", port[14]);
        Assert.Equal("0x0000004000000000 0x00000040001fffff 0x0000000000102201", port[15]);
        // A virtual function's are cut from those of its physical one.
        await device.SetVirtualFunctionsAsync(2);
        var second = device.VirtualFunctions[1];
        var vf = world.Read(second.DevPath + "/resource").Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(Convert.ToUInt64(words[0], 16) + 0x4000, Convert.ToUInt64(vf[0].Split(' ')[0], 16));
        Assert.Equal(second.GetRegion(0).Start, Convert.ToUInt64(vf[0].Split(' ')[0], 16));
    }

    [Fact]
    public async Task Config_is_bytes_and_as_text_what_lspci_reads()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        var file = (TreeFile)world.Fabric.Tree.Find(device.DevPath + "/config");
        Assert.True(file.IsBinary);
        Assert.Equal(4096, file.Size);
        var bytes = new byte[8];
        Assert.Equal(8, file.ReadBytes(0, bytes));
        Assert.Equal([0xF4, 0x1A, 0xF5, 0x10], bytes[..4]);
        Assert.Equal(4, file.ReadBytes(4092, bytes));
        Assert.Equal(0, file.ReadBytes(5000, bytes));
        Assert.Equal(2, file.WriteBytes(4, [0x06, 0x04]));
        Assert.Equal(0x0406, device.ReadConfig16(4));
        var text = file.Read();
        Assert.StartsWith("0000:01:00.0 Class 0200: 1af4:10f5 (rev 07)\n00: f4 1a f5 10 06 04 10 00 ", text, StringComparison.Ordinal);
        await world.WriteAsync(device, "config", "04: 02 00\n3c: 0b");
        Assert.Equal((2, 11), (device.ReadConfig16(4), device.ReadConfig8(0x3C)));
        foreach (var wrong in new[] { "04 02", "04:", "zz: 01", "fff: 01 02", "04: 1ff" })
            await Expect.RefusedAsync(Errno.EINVAL, () => world.WriteAsync(device, "config", wrong));
        Assert.Throws<VirtbusException>(() => ((TreeFile)world.Fabric.Tree.Find(device.DevPath + "/vendor")).ReadBytes(0, bytes));
    }

    [Fact]
    public async Task Resource_files_are_registers()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        device.Enable();
        var file = (TreeFile)world.Fabric.Tree.Find(device.DevPath + "/resource2");
        Assert.Equal(64, file.Size);
        file.WriteBytes(4, [1, 2, 3, 4]);
        Assert.Equal(0x04030201u, device.GetRegion(2).Read32(4));
        Assert.Equal(0x4000, ((TreeFile)world.Fabric.Tree.Find(device.DevPath + "/resource0")).Size);
        Assert.Equal(Errno.EIO, Assert.Throws<VirtbusException>(() => file.Read()).Errno);
    }

    [Fact]
    public async Task Enable_is_a_count_that_drivers_keep_people_away_from()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        await Expect.RefusedAsync(Errno.EIO, () => world.WriteAsync(device, "enable", "0"));
        await world.WriteAsync(device, "enable", "1");
        await world.WriteAsync(device, "enable", "1");
        Assert.Equal("2\n", world.Read(device.DevPath + "/enable"));
        await world.WriteAsync(device, "enable", "0");
        Assert.Equal(3, device.ReadConfig16(4) & 3);
        await world.WriteAsync(device, "enable", "0");
        Assert.Equal(0, device.ReadConfig16(4) & 3);
        await Expect.RefusedAsync(Errno.EINVAL, () => world.WriteAsync(device, "enable", "on"));
        await world.RegisterAsync("card", new PciDeviceId(0x1AF4, 0x10F5));
        var e = await Expect.RefusedAsync(Errno.EBUSY, () => world.WriteAsync(device, "enable", "1"));
        Assert.Equal("Device 0000:01:00.0 is bound to card, which enables and disables it. Unbind it first.", e.Message);
        Assert.Equal("1\n", world.Read(device.DevPath + "/enable"));
    }

    [Fact]
    public async Task Irqs_of_messages_are_listed()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        device.Enable();
        var vectors = device.AllocateVectors(2, 2, PciInterruptKinds.Msi);
        Assert.Equal($"{vectors[0].Irq}\n", world.Read(device.DevPath + "/irq"));
        Assert.Equal(
            vectors.Select(v => $"{v.Irq}"), ((TreeDirectory)world.Fabric.Tree.Find(device.DevPath + "/msi_irqs")).List().Select(n => n.Name));
        Assert.Equal("msi\n", world.Read($"{device.DevPath}/msi_irqs/{vectors[1].Irq}"));
        device.FreeVectors();
        Assert.Equal("0\n", world.Read(device.DevPath + "/irq"));
    }

    [Fact]
    public async Task Groups_are_listed_with_their_functions()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        var groups = ((TreeDirectory)world.Fabric.Tree.Find("/kernel/iommu_groups")).List().Select(n => n.Name);
        Assert.Equal(["0", "1"], groups);
        Assert.Equal("DMA\n", world.Read($"/kernel/iommu_groups/{device.IommuGroup.Number}/type"));
        Assert.Equal("0x1af4\n", world.Read($"/kernel/iommu_groups/{device.IommuGroup.Number}/devices/0000:01:00.0/vendor"));
        Assert.Equal("0x1af4\n", world.Read(device.DevPath + "/iommu_group/devices/0000:01:00.0/vendor"));
    }

    [Fact]
    public async Task Power_state_is_what_the_capability_says()
    {
        var world = await PciWorld.NewAsync();
        var (_, device) = await world.PlugAsync();
        var capability = device.FindCapability(0x01);
        device.WriteConfig8(capability + 4, 3);
        Assert.Equal("D3hot\n", world.Read(device.DevPath + "/power_state"));
        device.WriteConfig8(capability + 4, 0);
        Assert.Equal("D0\n", world.Read(device.DevPath + "/power_state"));
    }
}
