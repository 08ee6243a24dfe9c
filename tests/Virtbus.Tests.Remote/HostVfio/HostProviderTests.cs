using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Virtbus.Platform;
using Virtbus.Remote.Pci.HostVfio;

namespace Virtbus.Tests.Remote.HostVfio;

/// <summary>What the door to the host says where the host has nothing, and that its structures are the kernel's.</summary>
public sealed class HostProviderTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus-vfio");

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public async Task Host_without_pci_vfio_or_permission_is_told_apart_with_a_remedy()
    {
        var sysfs = Path.Combine(_folder.FullName, "sys");
        var devices = Path.Combine(_folder.FullName, "vfio");
        var provider = new HostFunctionProvider(sysfs: sysfs, devices: devices);
        Assert.Equal("host", provider.Name);
        var pci = Path.Combine(sysfs, "bus/pci/devices");
        ListsNone($"This host shows no PCI functions ({pci} is missing). Use one with PCI, or simulated hardware.");
        await RefusedAsync(Errno.EINVAL, "eth0", "'eth0' is no PCI address. Write for example 0000:03:00.1.");
        await RefusedAsync(Errno.ENODEV, "0000:03:00.1", $"This host shows no PCI functions ({pci} is missing). Use one with PCI, or simulated hardware.");
        Directory.CreateDirectory(pci);
        await RefusedAsync(Errno.ENODEV, "03:00.1", "This host has no PCI function 0000:03:00.1. 'lspci -D' lists those there are.");

        var function = Directory.CreateDirectory(Path.Combine(pci, "0000:03:00.1")).FullName;
        await RefusedAsync(
            Errno.EBUSY, "0000:03:00.1", "Function 0000:03:00.1 of this host has no driver. Bind it to vfio-pci: driverctl set-override 0000:03:00.1 vfio-pci");
        Link(function, "driver", "drivers/ixgbevf");
        await RefusedAsync(
            Errno.EBUSY, "0000:03:00.1", "Function 0000:03:00.1 of this host is bound to ixgbevf. Bind it to vfio-pci: driverctl set-override 0000:03:00.1 vfio-pci");
        ListsNone("No function of this host is bound to vfio-pci. Bind one, for example: driverctl set-override 0000:03:00.1 vfio-pci");
        File.Delete(Path.Combine(function, "driver"));
        Link(function, "driver", "drivers/vfio-pci");
        Assert.Equal(["0000:03:00.1"], provider.List());
        await RefusedAsync(
            Errno.ENODEV, "0000:03:00.1", "Function 0000:03:00.1 of this host has no IOMMU group, so its DMA can't be contained. Turn the IOMMU on in firmware and kernel.");
        Link(function, "iommu_group", "iommu_groups/12");
        await RefusedAsync(Errno.ENOENT, "0000:03:00.1", $"This host has no VFIO ({devices} is missing). Load vfio-pci, and give a container the folder.");

        Directory.CreateDirectory(devices);
        var container = Path.Combine(devices, "vfio");
        await RefusedAsync(Errno.ENOENT, "0000:03:00.1", $"{container} does not exist. Load vfio-pci on the host, and give a container the device.");
        File.WriteAllText(container, "");
        await RefusedAsync(Errno.EOPNOTSUPP, "0000:03:00.1", $"{container} is no VFIO container of version 0. Use a Linux host with VFIO.");

        void ListsNone(string message)
        {
            var e = Assert.Throws<VirtbusException>(provider.List);
            Assert.Equal((Errno.ENODEV, message), (e.Errno, e.Message));
        }

        async Task RefusedAsync(Errno errno, string name, string message)
        {
            var e = await Assert.ThrowsAsync<VirtbusException>(async () => await provider.OpenAsync(name));
            Assert.Equal((errno, message), (e.Errno, e.Message));
        }
    }

    [Fact]
    public void Structures_have_the_layout_of_the_C_compiler()
    {
        var binary = Path.Combine(_folder.FullName, "layout");
        File.WriteAllText(binary + ".c", """
            #include <stdio.h>
            #include <stddef.h>
            #include <linux/vfio.h>
            #define SIZE(t) printf("%s %zu\n", #t, sizeof(struct t))
            #define FIELD(t, f) printf("%s.%s %zu\n", #t, #f, offsetof(struct t, f))
            int main(void) {
              SIZE(vfio_group_status); FIELD(vfio_group_status, flags);
              FIELD(vfio_device_info, num_regions); FIELD(vfio_device_info, num_irqs); FIELD(vfio_device_info, cap_offset);
              SIZE(vfio_region_info); FIELD(vfio_region_info, index); FIELD(vfio_region_info, size); FIELD(vfio_region_info, offset);
              SIZE(vfio_irq_info); FIELD(vfio_irq_info, index); FIELD(vfio_irq_info, count);
              SIZE(vfio_irq_set); FIELD(vfio_irq_set, start); FIELD(vfio_irq_set, count);
              SIZE(vfio_iommu_type1_dma_map); FIELD(vfio_iommu_type1_dma_map, vaddr); FIELD(vfio_iommu_type1_dma_map, iova); FIELD(vfio_iommu_type1_dma_map, size);
              SIZE(vfio_iommu_type1_dma_unmap); FIELD(vfio_iommu_type1_dma_unmap, iova); FIELD(vfio_iommu_type1_dma_unmap, size);
              printf("%x %x %x %x %x\n", VFIO_GET_API_VERSION, VFIO_SET_IOMMU, VFIO_GROUP_GET_DEVICE_FD, VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_REGION_INFO);
              printf("%x %x %x %x %x\n", VFIO_DEVICE_GET_IRQ_INFO, VFIO_DEVICE_SET_IRQS, VFIO_DEVICE_RESET, VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA);
              printf("%x %x %x %x\n", VFIO_CHECK_EXTENSION, VFIO_GROUP_GET_STATUS, VFIO_GROUP_SET_CONTAINER, VFIO_TYPE1v2_IOMMU);
              return 0;
            }
            """);
        if (!TryRun("cc", [binary + ".c", "-o", binary], out _))
            Assert.Skip("no C compiler ('cc') or no linux/vfio.h on this host: layouts are not checked");
        Assert.True(TryRun(binary, [], out var output));
        string[] ours =
        [
            $"vfio_group_status {Unsafe.SizeOf<VfioGroupStatus>()}",
            $"vfio_group_status.flags {Offset<VfioGroupStatus>("Flags")}",
            $"vfio_device_info.num_regions {Offset<VfioInfo>("Regions")}",
            $"vfio_device_info.num_irqs {Offset<VfioInfo>("Irqs")}",
            $"vfio_device_info.cap_offset {Offset<VfioInfo>("Capabilities")}",
            $"vfio_region_info {Unsafe.SizeOf<VfioRegion>()}",
            $"vfio_region_info.index {Offset<VfioRegion>("Index")}",
            $"vfio_region_info.size {Offset<VfioRegion>("Size")}",
            $"vfio_region_info.offset {Offset<VfioRegion>("Offset")}",
            $"vfio_irq_info {Unsafe.SizeOf<VfioIrq>()}",
            $"vfio_irq_info.index {Offset<VfioIrq>("Index")}",
            $"vfio_irq_info.count {Offset<VfioIrq>("Count")}",
            $"vfio_irq_set {Unsafe.SizeOf<VfioIrqSetHead>()}",
            $"vfio_irq_set.start {Offset<VfioIrqSetHead>("Start")}",
            $"vfio_irq_set.count {Offset<VfioIrqSetHead>("Count")}",
            $"vfio_iommu_type1_dma_map {Unsafe.SizeOf<VfioDmaMap>()}",
            $"vfio_iommu_type1_dma_map.vaddr {Offset<VfioDmaMap>("Address")}",
            $"vfio_iommu_type1_dma_map.iova {Offset<VfioDmaMap>("Iova")}",
            $"vfio_iommu_type1_dma_map.size {Offset<VfioDmaMap>("Size")}",
            $"vfio_iommu_type1_dma_unmap {Unsafe.SizeOf<VfioDmaUnmap>()}",
            $"vfio_iommu_type1_dma_unmap.iova {Offset<VfioDmaUnmap>("Iova")}",
            $"vfio_iommu_type1_dma_unmap.size {Offset<VfioDmaUnmap>("Size")}",
            $"{HostVfioDevice.GetApiVersion:x} {HostVfioDevice.SetIommu:x} {HostVfioDevice.GroupGetDevice:x} {HostVfioDevice.DeviceGetInfo:x} {HostVfioDevice.DeviceGetRegion:x}",
            $"{HostVfioDevice.DeviceGetIrq:x} {HostVfioDevice.DeviceSetIrqs:x} {HostVfioDevice.DeviceReset:x} {HostVfioDevice.MapDma:x} {HostVfioDevice.UnmapDma:x}",
            $"{HostVfioDevice.CheckExtension:x} {HostVfioDevice.GroupGetStatus:x} {HostVfioDevice.GroupSetContainer:x} {HostVfioDevice.Type1v2:x}",
        ];
        Assert.Equal(ours, output.Split('\n', StringSplitOptions.RemoveEmptyEntries));
    }

    private void Link(string function, string name, string target)
    {
        var path = Path.Combine(_folder.FullName, target);
        Directory.CreateDirectory(path);
        Directory.CreateSymbolicLink(Path.Combine(function, name), path);
    }

    private static int Offset<T>(string field) => (int)Marshal.OffsetOf<T>(field);

    private static bool TryRun(string program, string[] arguments, out string output)
    {
        output = "";
        try
        {
            (output, _, var code) = Programs.Run(program, arguments);
            return code == 0;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return false;
        }
    }
}
