using System.Buffers.Binary;

namespace Virtbus.Virtio;

/// <summary>
/// A vendor-specific capability of a virtio PCI function (struct virtio_pci_cap; VIRTIO 1.3, 4.1.4): where a structure is. For who looks for the
/// registers; whether they are there is for that one to check.
/// </summary>
/// <param name="Type">cfg_type: which structure, see the constants; drivers ignore types that they do not know.</param>
/// <param name="Bar">Which BAR; above 5 reserved, to be ignored.</param>
/// <param name="Id">Tells several of a type apart: shmid of shared memory.</param>
/// <param name="Offset">First byte in the BAR; 64 bits for shared memory.</param>
/// <param name="Length">Bytes; 64 bits for shared memory.</param>
/// <param name="At">Where the capability is in config space.</param>
/// <param name="Multiplier">notify_off_multiplier: bytes from one queue's notification to the next one's; 0 for other structures.</param>
public readonly record struct VirtioPciCapability(byte Type, byte Bar, byte Id, ulong Offset, ulong Length, int At, uint Multiplier)
{
    /// <summary>Common configuration, see <see cref="VirtioCommonConfig"/>.</summary>
    public const byte VIRTIO_PCI_CAP_COMMON_CFG = 1;

    /// <summary>Notifications.</summary>
    public const byte VIRTIO_PCI_CAP_NOTIFY_CFG = 2;

    /// <summary>ISR status.</summary>
    public const byte VIRTIO_PCI_CAP_ISR_CFG = 3;

    /// <summary>Configuration of the device's type.</summary>
    public const byte VIRTIO_PCI_CAP_DEVICE_CFG = 4;

    /// <summary>The window in config space.</summary>
    public const byte VIRTIO_PCI_CAP_PCI_CFG = 5;

    /// <summary>Shared memory.</summary>
    public const byte VIRTIO_PCI_CAP_SHARED_MEMORY_CFG = 8;

    /// <summary>Bytes of the largest capability that is known.</summary>
    public const int MaxSize = 24;

    private const int ShortSize = 16;
    private const int NotifySize = 20;

    /// <summary>Reads a capability.</summary>
    /// <param name="at">Where it is in config space.</param>
    /// <param name="bytes">Its bytes from the id on, as many as its own length field says, at most <see cref="MaxSize"/>.</param>
    /// <param name="capability">The capability.</param>
    /// <returns>False when it is shorter than its type has to be.</returns>
    public static bool TryRead(int at, ReadOnlySpan<byte> bytes, out VirtioPciCapability capability)
    {
        capability = default;
        if (bytes.Length < ShortSize)
            return false;
        var type = bytes[3];
        var needed = type switch
        {
            VIRTIO_PCI_CAP_NOTIFY_CFG => NotifySize,
            VIRTIO_PCI_CAP_SHARED_MEMORY_CFG => MaxSize,
            _ => ShortSize,
        };
        if (bytes.Length < needed)
            return false;
        ulong offset = BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]);
        ulong length = BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]);
        if (type == VIRTIO_PCI_CAP_SHARED_MEMORY_CFG)
        {
            // The lower halves, and the upper ones behind them.
            offset |= (ulong)BinaryPrimitives.ReadUInt32LittleEndian(bytes[16..]) << 32;
            length |= (ulong)BinaryPrimitives.ReadUInt32LittleEndian(bytes[20..]) << 32;
        }

        var multiplier = type == VIRTIO_PCI_CAP_NOTIFY_CFG ? BinaryPrimitives.ReadUInt32LittleEndian(bytes[16..]) : 0;
        capability = new VirtioPciCapability(type, bytes[4], bytes[5], offset, length, at, multiplier);
        return true;
    }
}
