using System.Reflection;
using System.Runtime.InteropServices;
using Virtbus.Wire.VfioUser;
using Virtbus.Wire.VhostUser;

namespace Virtbus.Tests.Wire;

/// <summary>
/// What vfio-user and vhost-user send has the layout of Linux's headers where the specifications borrow theirs, and of the specifications' own
/// tables, written down here in C, where not. TD-08.
/// </summary>
public sealed class WireLayoutTests
{
    private const string Program = """
        #include <stdio.h>
        #include <stddef.h>
        #include <stdint.h>
        #include <linux/vfio.h>
        #include <linux/vhost_types.h>
        #define SIZE(n, t) printf("%s %zu\n", n, sizeof(t))
        #define FIELD(n, t, f) printf("%s %zu\n", n, offsetof(t, f))
        struct header { uint16_t id, command; uint32_t size, flags, error; };
        struct version { uint16_t major, minor; };
        struct dma_map { uint32_t argsz, flags; uint64_t offset, address, size; };
        struct dma_unmap { uint32_t argsz, flags; uint64_t address, size; };
        struct dma_access { uint64_t address, count; };
        struct dma_short { uint64_t address; uint32_t count; } __attribute__((packed));
        struct io_fds { uint32_t argsz, flags, index, count; };
        struct io_fd { uint64_t offset, size; uint32_t fd_index, type, flags, padding; uint64_t datamatch; };
        struct wide_io_fd { uint64_t offset, size; uint32_t fd_index, type, flags, shadow_fd; uint64_t shadow_offset, datamatch; };
        struct access { uint64_t offset; uint32_t region, count; };
        struct write_multi { uint64_t count; };
        struct write_entry { struct access access; uint64_t data; };
        struct mig_data { uint32_t argsz, size; };
        struct number { struct vfio_device_feature head; uint64_t value; };
        struct state { struct vfio_device_feature head; struct vfio_device_feature_mig_state value; };
        struct log_start { struct vfio_device_feature head; struct vfio_device_feature_dma_logging_control value; };
        struct log_report { struct vfio_device_feature head; struct vfio_device_feature_dma_logging_report value; };
        struct vhost_header { uint32_t request, flags, size; };
        struct vhost_table { uint32_t count, padding; };
        struct vhost_single { uint64_t padding; struct vhost_memory_region region; };
        struct vhost_config { uint32_t offset, size, flags; };
        int main(void) {
          SIZE("VfioUserHeader", struct header); FIELD("VfioUserHeader.Id", struct header, id); FIELD("VfioUserHeader.Command", struct header, command);
          FIELD("VfioUserHeader.Size", struct header, size); FIELD("VfioUserHeader.Flags", struct header, flags); FIELD("VfioUserHeader.Error", struct header, error);
          SIZE("VfioUserVersion", struct version); FIELD("VfioUserVersion.Major", struct version, major); FIELD("VfioUserVersion.Minor", struct version, minor);
          SIZE("VfioUserDmaMap", struct dma_map); FIELD("VfioUserDmaMap.ArgSize", struct dma_map, argsz); FIELD("VfioUserDmaMap.Flags", struct dma_map, flags);
          FIELD("VfioUserDmaMap.Offset", struct dma_map, offset); FIELD("VfioUserDmaMap.Address", struct dma_map, address); FIELD("VfioUserDmaMap.Size", struct dma_map, size);
          SIZE("VfioUserDmaUnmap", struct dma_unmap); FIELD("VfioUserDmaUnmap.ArgSize", struct dma_unmap, argsz); FIELD("VfioUserDmaUnmap.Flags", struct dma_unmap, flags);
          FIELD("VfioUserDmaUnmap.Address", struct dma_unmap, address); FIELD("VfioUserDmaUnmap.Size", struct dma_unmap, size);
          SIZE("VfioUserDirtyBitmap", uint64_t[2]); FIELD("VfioUserDirtyBitmap.PageSize", struct vfio_bitmap, pgsize); FIELD("VfioUserDirtyBitmap.Size", struct vfio_bitmap, size);
          SIZE("VfioUserDmaAccess", struct dma_access); FIELD("VfioUserDmaAccess.Address", struct dma_access, address); FIELD("VfioUserDmaAccess.Count", struct dma_access, count);
          SIZE("VfioUserShortDmaAccess", struct dma_short); FIELD("VfioUserShortDmaAccess.Address", struct dma_short, address); FIELD("VfioUserShortDmaAccess.Count", struct dma_short, count);
          printf("VfioUserDeviceInfo %zu\n", offsetof(struct vfio_device_info, cap_offset)); FIELD("VfioUserDeviceInfo.ArgSize", struct vfio_device_info, argsz);
          FIELD("VfioUserDeviceInfo.Flags", struct vfio_device_info, flags); FIELD("VfioUserDeviceInfo.Regions", struct vfio_device_info, num_regions);
          FIELD("VfioUserDeviceInfo.Interrupts", struct vfio_device_info, num_irqs);
          SIZE("VfioUserRegionInfo", struct vfio_region_info); FIELD("VfioUserRegionInfo.ArgSize", struct vfio_region_info, argsz);
          FIELD("VfioUserRegionInfo.Flags", struct vfio_region_info, flags); FIELD("VfioUserRegionInfo.Index", struct vfio_region_info, index);
          FIELD("VfioUserRegionInfo.Capabilities", struct vfio_region_info, cap_offset); FIELD("VfioUserRegionInfo.Size", struct vfio_region_info, size);
          FIELD("VfioUserRegionInfo.Offset", struct vfio_region_info, offset);
          SIZE("VfioUserCapabilityHeader", struct vfio_info_cap_header); FIELD("VfioUserCapabilityHeader.Id", struct vfio_info_cap_header, id);
          FIELD("VfioUserCapabilityHeader.Version", struct vfio_info_cap_header, version); FIELD("VfioUserCapabilityHeader.Next", struct vfio_info_cap_header, next);
          SIZE("VfioUserSparseAreas", struct vfio_region_info_cap_sparse_mmap); FIELD("VfioUserSparseAreas.Header", struct vfio_region_info_cap_sparse_mmap, header);
          FIELD("VfioUserSparseAreas.Count", struct vfio_region_info_cap_sparse_mmap, nr_areas); FIELD("VfioUserSparseAreas.Reserved", struct vfio_region_info_cap_sparse_mmap, reserved);
          SIZE("VfioUserSparseArea", struct vfio_region_sparse_mmap_area); FIELD("VfioUserSparseArea.Offset", struct vfio_region_sparse_mmap_area, offset);
          FIELD("VfioUserSparseArea.Size", struct vfio_region_sparse_mmap_area, size);
          SIZE("VfioUserRegionType", struct vfio_region_info_cap_type); FIELD("VfioUserRegionType.Header", struct vfio_region_info_cap_type, header);
          FIELD("VfioUserRegionType.Type", struct vfio_region_info_cap_type, type); FIELD("VfioUserRegionType.Subtype", struct vfio_region_info_cap_type, subtype);
          SIZE("VfioUserIoFds", struct io_fds); FIELD("VfioUserIoFds.ArgSize", struct io_fds, argsz); FIELD("VfioUserIoFds.Flags", struct io_fds, flags);
          FIELD("VfioUserIoFds.Index", struct io_fds, index); FIELD("VfioUserIoFds.Count", struct io_fds, count);
          SIZE("VfioUserIoFd", struct io_fd); FIELD("VfioUserIoFd.Offset", struct io_fd, offset); FIELD("VfioUserIoFd.Size", struct io_fd, size);
          FIELD("VfioUserIoFd.DescriptorIndex", struct io_fd, fd_index); FIELD("VfioUserIoFd.Type", struct io_fd, type); FIELD("VfioUserIoFd.Flags", struct io_fd, flags);
          FIELD("VfioUserIoFd.Reserved", struct io_fd, padding); FIELD("VfioUserIoFd.DataMatch", struct io_fd, datamatch);
          SIZE("VfioUserWideIoFd", struct wide_io_fd); FIELD("VfioUserWideIoFd.Offset", struct wide_io_fd, offset); FIELD("VfioUserWideIoFd.Size", struct wide_io_fd, size);
          FIELD("VfioUserWideIoFd.DescriptorIndex", struct wide_io_fd, fd_index); FIELD("VfioUserWideIoFd.Type", struct wide_io_fd, type);
          FIELD("VfioUserWideIoFd.Flags", struct wide_io_fd, flags); FIELD("VfioUserWideIoFd.ShadowIndex", struct wide_io_fd, shadow_fd);
          FIELD("VfioUserWideIoFd.ShadowOffset", struct wide_io_fd, shadow_offset); FIELD("VfioUserWideIoFd.DataMatch", struct wide_io_fd, datamatch);
          SIZE("VfioUserIrqInfo", struct vfio_irq_info); FIELD("VfioUserIrqInfo.ArgSize", struct vfio_irq_info, argsz); FIELD("VfioUserIrqInfo.Flags", struct vfio_irq_info, flags);
          FIELD("VfioUserIrqInfo.Index", struct vfio_irq_info, index); FIELD("VfioUserIrqInfo.Count", struct vfio_irq_info, count);
          SIZE("VfioUserIrqSet", struct vfio_irq_set); FIELD("VfioUserIrqSet.ArgSize", struct vfio_irq_set, argsz); FIELD("VfioUserIrqSet.Flags", struct vfio_irq_set, flags);
          FIELD("VfioUserIrqSet.Index", struct vfio_irq_set, index); FIELD("VfioUserIrqSet.Start", struct vfio_irq_set, start); FIELD("VfioUserIrqSet.Count", struct vfio_irq_set, count);
          SIZE("VfioUserRegionAccess", struct access); FIELD("VfioUserRegionAccess.Offset", struct access, offset); FIELD("VfioUserRegionAccess.Region", struct access, region);
          FIELD("VfioUserRegionAccess.Count", struct access, count);
          SIZE("VfioUserWriteMulti", struct write_multi); FIELD("VfioUserWriteMulti.Count", struct write_multi, count);
          SIZE("VfioUserWriteEntry", struct write_entry); FIELD("VfioUserWriteEntry.Access", struct write_entry, access); FIELD("VfioUserWriteEntry.Data", struct write_entry, data);
          SIZE("VfioUserFeature", struct vfio_device_feature); FIELD("VfioUserFeature.ArgSize", struct vfio_device_feature, argsz); FIELD("VfioUserFeature.Flags", struct vfio_device_feature, flags);
          SIZE("VfioUserFeatureNumber", struct number); FIELD("VfioUserFeatureNumber.Head", struct number, head); FIELD("VfioUserFeatureNumber.Value", struct number, value);
          SIZE("VfioUserFeatureState", struct state); FIELD("VfioUserFeatureState.Head", struct state, head); FIELD("VfioUserFeatureState.State", struct state, value.device_state);
          FIELD("VfioUserFeatureState.DataDescriptor", struct state, value.data_fd);
          printf("VfioUserLoggingStart %zu\n", offsetof(struct log_start, value.ranges)); FIELD("VfioUserLoggingStart.Head", struct log_start, head);
          FIELD("VfioUserLoggingStart.PageSize", struct log_start, value.page_size); FIELD("VfioUserLoggingStart.Count", struct log_start, value.num_ranges);
          FIELD("VfioUserLoggingStart.Reserved", struct log_start, value.__reserved);
          SIZE("VfioUserLoggingRange", struct vfio_device_feature_dma_logging_range); FIELD("VfioUserLoggingRange.Address", struct vfio_device_feature_dma_logging_range, iova);
          FIELD("VfioUserLoggingRange.Size", struct vfio_device_feature_dma_logging_range, length);
          printf("VfioUserLoggingReport %zu\n", offsetof(struct log_report, value.bitmap)); FIELD("VfioUserLoggingReport.Head", struct log_report, head);
          FIELD("VfioUserLoggingReport.Address", struct log_report, value.iova); FIELD("VfioUserLoggingReport.Size", struct log_report, value.length);
          FIELD("VfioUserLoggingReport.PageSize", struct log_report, value.page_size);
          SIZE("VfioUserMigrationData", struct mig_data); FIELD("VfioUserMigrationData.ArgSize", struct mig_data, argsz); FIELD("VfioUserMigrationData.Size", struct mig_data, size);
          SIZE("VhostUserHeader", struct vhost_header); FIELD("VhostUserHeader.Request", struct vhost_header, request); FIELD("VhostUserHeader.Flags", struct vhost_header, flags);
          FIELD("VhostUserHeader.Size", struct vhost_header, size);
          SIZE("VhostUserRingState", struct vhost_vring_state); FIELD("VhostUserRingState.Index", struct vhost_vring_state, index); FIELD("VhostUserRingState.Value", struct vhost_vring_state, num);
          SIZE("VhostUserRingAddress", struct vhost_vring_addr); FIELD("VhostUserRingAddress.Index", struct vhost_vring_addr, index);
          FIELD("VhostUserRingAddress.Flags", struct vhost_vring_addr, flags); FIELD("VhostUserRingAddress.Descriptors", struct vhost_vring_addr, desc_user_addr);
          FIELD("VhostUserRingAddress.Used", struct vhost_vring_addr, used_user_addr); FIELD("VhostUserRingAddress.Available", struct vhost_vring_addr, avail_user_addr);
          FIELD("VhostUserRingAddress.Log", struct vhost_vring_addr, log_guest_addr);
          SIZE("VhostUserMemoryTable", struct vhost_table); FIELD("VhostUserMemoryTable.Count", struct vhost_table, count); FIELD("VhostUserMemoryTable.Padding", struct vhost_table, padding);
          SIZE("VhostUserRegion", struct vhost_memory_region); FIELD("VhostUserRegion.GuestAddress", struct vhost_memory_region, guest_phys_addr);
          FIELD("VhostUserRegion.Size", struct vhost_memory_region, memory_size); FIELD("VhostUserRegion.UserAddress", struct vhost_memory_region, userspace_addr);
          FIELD("VhostUserRegion.FileOffset", struct vhost_memory_region, flags_padding);
          SIZE("VhostUserSingleRegion", struct vhost_single); FIELD("VhostUserSingleRegion.Padding", struct vhost_single, padding);
          FIELD("VhostUserSingleRegion.Region", struct vhost_single, region);
          SIZE("VhostUserConfig", struct vhost_config); FIELD("VhostUserConfig.Offset", struct vhost_config, offset); FIELD("VhostUserConfig.Size", struct vhost_config, size);
          FIELD("VhostUserConfig.Flags", struct vhost_config, flags);
          return 0;
        }
        """;

    // Every struct of the two files, so that one that is added here is added in C too.
    private static IEnumerable<Type> Structs => typeof(VfioUserHeader).Assembly.GetTypes()
        .Where(t => t is { IsValueType: true, IsEnum: false, IsNested: false } && t.Namespace is "Virtbus.Wire.VfioUser" or "Virtbus.Wire.VhostUser")
        .Where(t => t is { IsByRefLike: false, IsLayoutSequential: true } && t != typeof(VfioUserPace));

    [Fact]
    public void Messages_have_the_layout_of_the_standards()
    {
        var folder = Directory.CreateTempSubdirectory("virtbus-wire");
        try
        {
            var binary = Path.Combine(folder.FullName, "layout");
            File.WriteAllText(binary + ".c", Program);
            if (!TryRun("cc", [binary + ".c", "-o", binary], out _))
                Assert.Skip("no C compiler ('cc'), linux/vfio.h or linux/vhost_types.h on this host: layouts are not checked");
            Assert.True(TryRun(binary, [], out var output));
            Assert.Equal(output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Order(StringComparer.Ordinal), Structs.SelectMany(Ours).Order(StringComparer.Ordinal));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Fact]
    public void Named_sizes_are_those_of_the_structs()
    {
        foreach (var (constants, prefix) in new[] { (typeof(VfioUserProtocol), "VfioUser"), (typeof(VhostUserProtocol), "VhostUser") })
        {
            var sizes = constants.GetFields(BindingFlags.Static | BindingFlags.NonPublic).Where(f => f.IsLiteral).ToDictionary(f => f.Name, f => f.GetRawConstantValue());
            foreach (var type in Structs.Where(t => t.Name.StartsWith(prefix, StringComparison.Ordinal) && t != typeof(VfioUserShortDmaAccess)))
            {
                var name = type == typeof(VhostUserConfig) ? "ConfigHeaderSize" : type.Name[prefix.Length..] + "Size";
                Assert.Equal((type.Name, Marshal.SizeOf(type)), (type.Name, (int)sizes[name]!));
            }
        }
    }

    [Fact]
    public void Message_reads_back_what_was_written_into_one()
    {
        var bytes = new byte[VfioUserProtocol.HeaderSize + VfioUserProtocol.RegionAccessSize];
        VfioUserMessage.WriteHeader(bytes, 7, VfioUserCommand.REGION_READ, bytes.Length, VfioUserProtocol.TypeReply, Virtbus.Platform.Errno.EIO);
        MemoryMarshal.Write(bytes.AsSpan(VfioUserProtocol.HeaderSize), new VfioUserRegionAccess { Offset = 1UL << 40, Region = 3, Count = 4 });
        // Byte by byte, as the other end sees it.
        Assert.Equal("0700090020000000010000000500000000000000000100000300000004000000", Convert.ToHexStringLower(bytes));
        var message = new VfioUserMessage(bytes, null);
        Assert.Equal((7, VfioUserCommand.REGION_READ, true, 5u), (message.Id, message.Command, message.IsReply, message.ErrorNumber));
        Assert.Equal((1UL << 40, 3u, 4u), (message.Read<VfioUserRegionAccess>().Offset, message.Read<VfioUserRegionAccess>().Region, message.Read<VfioUserRegionAccess>().Count));
    }

    private static IEnumerable<string> Ours(Type type)
    {
        yield return $"{type.Name} {Marshal.SizeOf(type)}";
        foreach (var field in type.GetFields(BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public))
            yield return $"{type.Name}.{field.Name} {Marshal.OffsetOf(type, field.Name)}";
    }

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
