using System.Buffers.Binary;
using System.Numerics;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioPciCapability;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>
/// Where the registers of a virtio function are, and the config space that says so (VIRTIO 1.3, 4.1.2 and 4.1.4). A page for each of the four
/// structures in BAR 4, MSI-X in BAR 1, the ports of old drivers in BAR 0, and in BAR 2 the memory that a device shares.
/// </summary>
internal static class VirtioFunctionLayout
{
    internal const int LegacyBar = 0;
    internal const int MsixBar = 1;
    internal const int SharedBar = 2;
    internal const int RegisterBar = 4;

    internal const int PageSize = 0x1000;
    internal const int CommonPage = 0;
    internal const int IsrPage = 1;
    internal const int ConfigPage = 2;
    internal const int NotifyPage = 3;

    /// <summary>Bytes from one queue's notification to the next one's: a notification with data has four.</summary>
    internal const int NotifyStride = 4;

    /// <summary>Where a virtual function that a legacy driver uses is notified, in <see cref="RegisterBar"/>: behind the places of all queues that there can be.</summary>
    internal const int LegacyNotifyPlace = ((NotifyPage + 1) * PageSize) - NotifyStride;

    // The window capability's fields.
    internal const int WindowBar = 4;
    internal const int WindowOffset = 8;
    internal const int WindowLength = 12;
    internal const int WindowData = 16;

    // With a shared region it is at the very end: before it is room for that one's capability, and not for a second.
    private const int WindowCapability = 0xE8;
    private const int LastWindowCapability = 0xEC;

    private const ushort Vendor = 0x1AF4;
    private const ushort ModernBase = 0x1040;
    // From 0x40 on, so that no driver takes it for a device type (4.1.2.1).
    private const ushort ModernSubsystem = 0x1100;
    private const uint RegisterBytes = 4 * PageSize;

    // Type, transitional device id (4.1.2).
    private static readonly (uint Type, ushort Id)[] TransitionalIds = [(1, 0x1000), (2, 0x1001), (3, 0x1003), (4, 0x1005), (5, 0x1002), (8, 0x1004), (9, 0x1009)];

    /// <summary>Where the window capability is, by which config space reaches the BARs: so that an access to it is found without a search.</summary>
    internal static int WindowAt(VirtioDevice device) => device.SharedMemory.Count == 0 ? WindowCapability : LastWindowCapability;

    /// <summary>Whether two devices have the same regions of shared memory.</summary>
    internal static bool SharesAs(VirtioDevice device, VirtioDevice other) =>
        device.SharedMemory.Select(static region => (region.Id, region.Memory.Size)).SequenceEqual(other.SharedMemory.Select(static region => (region.Id, region.Memory.Size)));

    /// <summary>Whether there is a transitional form of a device type.</summary>
    internal static bool HasTransitional(uint type) => Array.Exists(TransitionalIds, t => t.Type == type);

    /// <summary>The vectors that a function has.</summary>
    internal static int VectorsOf(VirtioDevice device, VirtioFunctionOptions options) => options.Vectors ?? device.QueueCount + (options.OffersAdminQueue ? 2 : 1);

    /// <summary>Makes the config space of a function that is not virtual.</summary>
    /// <exception cref="VirtbusException">EINVAL: the options do not go with the device.</exception>
    internal static ConfigLayout Build(VirtioDevice device, VirtioFunctionOptions options)
    {
        var type = device.DeviceId;
        if (options.IsTransitional && !HasTransitional(type))
            throw new VirtbusException(Errno.EINVAL, $"Device '{device.Name}' of virtio type {type} has no transitional form: drivers from before version 1.0 know none of that type. Make it modern.");
        if (options is { IsTransitional: true, VirtualFunctions: > 0 })
            throw new VirtbusException(Errno.EINVAL, $"Device '{device.Name}' is transitional, and a function that needs I/O ports has no virtual functions. Make it modern, or without them.");
        if (options.Vectors is < 0 or > PciMsix.PCI_MSIX_MAX_VECTORS)
            throw new VirtbusException(Errno.EINVAL, $"Device '{device.Name}' can't have {options.Vectors} vectors. Choose 0 to {PciMsix.PCI_MSIX_MAX_VECTORS}.");
        if (options.VirtualFunctions is < 0 or > VirtioFunction.MaxVirtualFunctions)
            throw new VirtbusException(Errno.EINVAL, $"Device '{device.Name}' can't have {options.VirtualFunctions} virtual functions. Choose 0 to {VirtioFunction.MaxVirtualFunctions}.");

        var builder = ConfigSpaceBuilder.Function(Vendor, options.IsTransitional ? Array.Find(TransitionalIds, t => t.Type == type).Id : ModernId(type))
            .Class(ClassOf(type), revision: options.IsTransitional ? (byte)0 : (byte)1)
            .Subsystem(Vendor, options.IsTransitional ? (ushort)type : ModernSubsystem)
            .InterruptPin(1)
            .MemoryBar64(RegisterBar, RegisterBytes);
        using var shared = new VirtioSharedBar(device);
        if (shared.Size != 0)
            builder.MemoryBar64(SharedBar, shared.Size);
        if (options.IsTransitional)
            builder.IoBar(LegacyBar, LegacyBytes(device));
        builder.PowerManagement();
        var vectors = VectorsOf(device, options);
        if (vectors > 0)
        {
            var size = MsixBytes(vectors);
            builder.MemoryBar(MsixBar, size).Msix(vectors, MsixBar, 0, MsixBar, size / 2);
        }

        builder.Express(new PciExpressOptions { Type = options.IsTransitional ? PciPortType.LegacyEndpoint : PciPortType.Endpoint });
        AddCapabilities(builder, device, shared, options.OffersAdminQueue ? 1 : 0);
        if (options.VirtualFunctions > 0)
            AddVirtual(builder, device, options, shared);
        try
        {
            return builder.Build();
        }
        catch (ArgumentException) when (shared.Regions.Count > 0)
        {
            throw new VirtbusException(Errno.EINVAL, $"Device '{device.Name}' has {shared.Regions.Count} regions of shared memory, and config space has no room to name them all. Give it one, or no vectors and no configuration and two.");
        }
    }

    /// <summary>Makes the config space of the virtual functions of one.</summary>
    /// <param name="device">Any of them.</param>
    /// <param name="physical">The physical function's.</param>
    internal static ConfigLayout BuildVirtual(VirtioDevice device, ConfigLayout physical)
    {
        var vectors = device.QueueCount + 1;
        var builder = ConfigSpaceBuilder.VirtualFunction(physical)
            .Subsystem(Vendor, ModernSubsystem)
            .PowerManagement()
            .Msix(vectors, MsixBar, 0, MsixBar, MsixBytes(vectors) / 2);
        using var shared = new VirtioSharedBar(device);
        AddCapabilities(builder, device, shared, adminQueues: 0);
        return builder.Ari().Build();
    }

    private static ushort ModernId(uint type) => (ushort)(ModernBase + type);

    private static void AddVirtual(ConfigSpaceBuilder builder, VirtioDevice device, VirtioFunctionOptions options, VirtioSharedBar shared)
    {
        var none = default(PciBar);
        builder.Ari().Sriov(new SriovOptions
        {
            TotalVfs = options.VirtualFunctions,
            VfDeviceId = ModernId(device.DeviceId),
            VfBars =
            [
                none,
                new PciBar(PciBarKind.Memory32, MsixBytes(device.QueueCount + 1)),
                shared.Size == 0 ? none : new PciBar(PciBarKind.Memory64, shared.Size, true),
                none,
                new PciBar(PciBarKind.Memory64, RegisterBytes, true),
            ],
        });
    }

    private static void AddCapabilities(ConfigSpaceBuilder builder, VirtioDevice device, VirtioSharedBar shared, int adminQueues)
    {
        Span<byte> bytes = stackalloc byte[17];
        builder.Vendor(Describe(bytes, VIRTIO_PCI_CAP_COMMON_CFG, CommonPage, VirtioCommonConfig.Size))
            .Vendor(Describe(bytes, VIRTIO_PCI_CAP_NOTIFY_CFG, NotifyPage, (device.QueueCount + adminQueues) * NotifyStride, NotifyStride))
            .Vendor(Describe(bytes, VIRTIO_PCI_CAP_ISR_CFG, IsrPage, 1));
        if (device.ConfigSize > 0)
            builder.Vendor(Describe(bytes, VIRTIO_PCI_CAP_DEVICE_CFG, ConfigPage, device.ConfigSize));
        foreach (var (id, offset, length) in shared.Regions)
            builder.Vendor(DescribeShared(id, offset, length));
        // Bar, offset, length and data are the driver's (4.1.4.9).
        Span<byte> writable = stackalloc byte[17];
        writable.Clear();
        writable[1] = 0xFF;
        writable[5..].Fill(0xFF);
        bytes.Clear();
        bytes[0] = VIRTIO_PCI_CAP_PCI_CFG;
        builder.Vendor(bytes, writable, WindowAt(device));
    }

    // As below, with the upper halves of offset and length (4.1.4.7).
    private static byte[] DescribeShared(byte id, ulong offset, ulong length)
    {
        var bytes = new byte[21];
        (bytes[0], bytes[1], bytes[2]) = (VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, SharedBar, id);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(5), (uint)offset);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(9), (uint)length);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(13), (uint)(offset >> 32));
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(17), (uint)(length >> 32));
        return bytes;
    }

    // What follows the length byte: type, bar, id, padding, offset, length, and the multiplier of notifications.
    private static ReadOnlySpan<byte> Describe(Span<byte> bytes, byte type, int page, int length, int? multiplier = null)
    {
        bytes.Clear();
        bytes[0] = type;
        bytes[1] = RegisterBar;
        BinaryPrimitives.WriteInt32LittleEndian(bytes[5..], page * PageSize);
        BinaryPrimitives.WriteInt32LittleEndian(bytes[9..], length);
        if (multiplier is null)
            return bytes[..13];
        BinaryPrimitives.WriteInt32LittleEndian(bytes[13..], multiplier.Value);
        return bytes;
    }

    // The table in the first half, the pending bits in the second.
    private static uint MsixBytes(int vectors) => BitOperations.RoundUpToPowerOf2(Math.Max(PageSize, 2 * (uint)vectors * 16));

    private static uint LegacyBytes(VirtioDevice device) =>
        Math.Min(256, BitOperations.RoundUpToPowerOf2((uint)(VirtioLegacyConfig.HeaderSize + VirtioLegacyConfig.VectorBytes + device.ConfigSize)));

    private static uint ClassOf(uint type) => type switch
    {
        VirtioDeviceId.VIRTIO_ID_NET => 0x020000,
        VirtioDeviceId.VIRTIO_ID_BLOCK or VirtioDeviceId.VIRTIO_ID_SCSI => 0x010000,
        VirtioDeviceId.VIRTIO_ID_CONSOLE => 0x078000,
        VirtioDeviceId.VIRTIO_ID_FS => 0x018000,
        _ => 0x00FF00,
    };
}
