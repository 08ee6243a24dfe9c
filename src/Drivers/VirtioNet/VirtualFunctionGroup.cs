using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Drivers.VirtioNet;

/// <summary>
/// What the virtual functions of a network device say, whoever has them: <c>vfs/vf0/status</c> and so on, read of their legacy registers by commands of the
/// physical function. Nothing that is read changes anything. A function without such commands has no such directory.
/// </summary>
internal static class VirtualFunctionGroup
{
    private const byte AddressOffset = 0;

    /// <summary>For the devices of the driver.</summary>
    internal static AttributeGroup[] Groups { get; } =
    [
        AttributeGroup.OfParts<VirtioBusDevice, PciDevice>(
            "vfs",
            static device => device.Parent is PciDevice physical
                ? physical.VirtualFunctions.Where(VirtioPciAdmin.HasLegacyIo).Select(static f => ($"vf{f.VirtualFunctionIndex}", f))
                : [],
            new ObjectAttribute<PciDevice>("status", static f => $"0x{ReadStatus(f):x2}"),
            new ObjectAttribute<PciDevice>("features", static f => $"0x{ReadFeatures(f):x8}"),
            new ObjectAttribute<PciDevice>("mac", ReadAddress),
            new ObjectAttribute<PciDevice>("link", static f => IsLinkUp(f) ? "up" : "down")),
    ];

    private static byte ReadStatus(PciDevice function)
    {
        Span<byte> value = stackalloc byte[1];
        Check(VirtioPciAdmin.TryLegacyCommonRead(function, VirtioLegacyConfig.VIRTIO_PCI_STATUS, value, out var fault), function, fault);
        return value[0];
    }

    private static uint ReadFeatures(PciDevice function)
    {
        Span<byte> value = stackalloc byte[sizeof(uint)];
        Check(VirtioPciAdmin.TryLegacyCommonRead(function, VirtioLegacyConfig.VIRTIO_PCI_HOST_FEATURES, value, out var fault), function, fault);
        return BinaryPrimitives.ReadUInt32LittleEndian(value);
    }

    private static string ReadAddress(PciDevice function)
    {
        Span<byte> value = stackalloc byte[6];
        Check(VirtioPciAdmin.TryLegacyDeviceRead(function, AddressOffset, value, out var fault), function, fault);
        return $"{value[0]:x2}:{value[1]:x2}:{value[2]:x2}:{value[3]:x2}:{value[4]:x2}:{value[5]:x2}";
    }

    // A device that does not say has its link up (VIRTIO 1.4, 5.1.4.2).
    private static bool IsLinkUp(PciDevice function)
    {
        if ((ReadFeatures(function) & (1u << VIRTIO_NET_F_STATUS)) == 0)
            return true;
        Span<byte> value = stackalloc byte[sizeof(ushort)];
        Check(VirtioPciAdmin.TryLegacyDeviceRead(function, StatusOffset, value, out var fault), function, fault);
        return (BinaryPrimitives.ReadUInt16LittleEndian(value) & VIRTIO_NET_S_LINK_UP) != 0;
    }

    private static void Check(bool isRead, PciDevice function, Fault fault)
    {
        if (!isRead)
            throw new VirtbusException(fault.Errno, $"The registers of virtual function {function.Name} can't be read: {fault.Message}.");
    }
}
