using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>Numbers of the vfio-user protocol that are no commands.</summary>
internal static class VfioUserProtocol
{
    internal const ushort Major = 0;

    /// <summary>The highest minor version spoken; the one used is the lower of both sides'.</summary>
    internal const ushort Minor = 2;

    // Sizes of what VfioUserLayouts has; a test compares them.
    internal const int HeaderSize = 16;
    internal const int VersionSize = 4;
    internal const int DmaMapSize = 32;
    internal const int DmaUnmapSize = 24;
    internal const int DirtyBitmapSize = 16;
    internal const int DmaAccessSize = 16;
    internal const int DeviceInfoSize = 16;
    internal const int RegionInfoSize = 32;
    internal const int CapabilityHeaderSize = 8;
    internal const int SparseAreasSize = 16;
    internal const int SparseAreaSize = 16;
    internal const int RegionTypeSize = 16;
    internal const int IoFdsSize = 16;
    internal const int IoFdSize = 40;
    internal const int WideIoFdSize = 48;
    internal const int IrqInfoSize = 16;
    internal const int IrqSetSize = 20;
    internal const int RegionAccessSize = 16;
    internal const int WriteMultiSize = 8;
    internal const int WriteEntrySize = 24;
    internal const int FeatureSize = 8;
    internal const int FeatureNumberSize = 16;
    internal const int FeatureStateSize = 16;
    internal const int LoggingStartSize = 24;
    internal const int LoggingRangeSize = 16;
    internal const int LoggingReportSize = 32;
    internal const int MigrationDataSize = 8;

    /// <summary>The most data in an entry of a message with several writes, and where it begins there.</summary>
    internal const int WriteMultiData = 8;
    internal const int WriteMultiDataAt = RegionAccessSize;

    /// <summary>The most data in one message, and what a peer that names nothing else takes.</summary>
    internal const int MaxDataTransfer = 1 << 20;

    /// <summary>The largest message: data, the header of an access, the message's header.</summary>
    internal const int MaxMessage = HeaderSize + RegionAccessSize + MaxDataTransfer;

    /// <summary>The most descriptors in one message that QEMU accepts to hear of.</summary>
    internal const int MaxDescriptors = 16;

    internal const int MaxDmaMaps = 65535;
    internal const ulong PageSize = 4096;
    internal const ulong MaxBitmapSize = 256UL << 20;

    // DEVICE_GET_INFO.
    internal const uint DeviceResetFlag = 1;
    internal const uint DevicePciFlag = 2;

    // Flags of the header.
    internal const uint TypeMask = 0xf;
    internal const uint TypeCommand = 0;
    internal const uint TypeReply = 1;
    internal const uint NoReplyFlag = 0x10;
    internal const uint ErrorFlag = 0x20;

    // DMA_MAP and DMA_UNMAP.
    internal const uint DmaReadFlag = 1;
    internal const uint DmaWriteFlag = 2;
    /// <summary>Extensions of libvfio-user that ask for a way of access; the one taken is up to the server.</summary>
    internal const uint DmaHintFlags = 4 | 8;
    internal const uint UnmapDirtyBitmapFlag = 1;
    internal const uint UnmapAllFlag = 2;

    // Regions.
    internal const uint RegionCapsFlag = 8;
    internal const ushort CapSparseMmap = 1;
    internal const ushort CapType = 2;
    internal const uint IoEventFdDataMatch = 1;
    internal const uint IoEventFdPio = 2;
    internal const uint IoFdTypeEventFd = 0;
    internal const uint IoFdTypeShadow = 2;
    internal const uint ConfigRegion = 7;
    internal const uint BarRegions = 6;

    // DEVICE_FEATURE.
    internal const uint FeatureMask = 0xffff;
    internal const uint FeatureGet = 1 << 16;
    internal const uint FeatureSet = 1 << 17;
    internal const uint FeatureProbe = 1 << 18;
    internal const uint FeatureMigration = 1;
    internal const uint FeatureMigDeviceState = 2;
    internal const uint FeatureLoggingStart = 6;
    internal const uint FeatureLoggingStop = 7;
    internal const uint FeatureLoggingReport = 8;
    internal const uint FeatureMigDataSize = 9;

    /// <summary>
    /// Whether a message can have descriptors at all; those of another were taken for its own. An unmap has no use for one, but SPDK's
    /// initiator sends that of the map with it.
    /// </summary>
    internal static bool MayCarryDescriptors(VfioUserCommand command, bool isReply) =>
        UsesDescriptors(command, isReply) || (!isReply && command == VfioUserCommand.DMA_UNMAP);

    /// <summary>Whether descriptors of a message mean something.</summary>
    internal static bool UsesDescriptors(VfioUserCommand command, bool isReply) => isReply
        ? command is VfioUserCommand.VERSION or VfioUserCommand.DEVICE_GET_REGION_INFO or VfioUserCommand.DEVICE_GET_REGION_IO_FDS
        : command is VfioUserCommand.DMA_MAP or VfioUserCommand.DEVICE_SET_IRQS;

    /// <summary>Bytes of a bitmap with one bit a page, in whole words of 64 bits.</summary>
    internal static ulong BitmapSize(ulong size, ulong pageSize)
    {
        var pages = (size / pageSize) + (size % pageSize == 0 ? 0UL : 1);
        return ((pages / 64) + (pages % 64 == 0 ? 0UL : 1)) * 8;
    }

    internal static bool Refuse(Errno errno, string message, out Fault fault)
    {
        fault = new Fault(errno, message);
        return false;
    }
}
