using System.Buffers.Binary;
using Virtbus.Drivers.VfioPci;
using static Virtbus.Pci.PciCommand;
using static Virtbus.Pci.PciHeader;

namespace Virtbus.Drivers.VirtioVfioPci;

/// <summary>
/// What of a virtual function's config space is not its own, byte for byte: it says that it is a transitional network device with ports in BAR 0. The rest is the
/// tool box's.
/// </summary>
/// <remarks>One thread at a time; <see cref="Reset"/> from any.</remarks>
internal sealed class VirtioLegacyHeader
{
    /// <summary>Bytes of BAR 0: the header with vectors, and the configuration up to the status of the link.</summary>
    public const int PortBytes = 32;

    private const ushort TransitionalNet = 0x1000;
    private const ushort SubsystemNet = 1;
    private const byte TransitionalRevision = 0;

    private readonly byte[] _bar = new byte[sizeof(uint)];
    private volatile bool _isIoEnabled;

    /// <summary>Whether the user has I/O ports enabled.</summary>
    public bool IsIoEnabled => _isIoEnabled;

    /// <summary>Somebody opened the function.</summary>
    public void Open()
    {
        _isIoEnabled = false;
        Array.Clear(_bar);
    }

    /// <summary>The function was reset: ports are off until the user enables them again. Where they are stays, as for BARs of the tool box.</summary>
    public void Reset() => _isIoEnabled = false;

    /// <summary>Puts what is emulated over what was read.</summary>
    /// <param name="offset">First byte that was read.</param>
    /// <param name="destination">What was read.</param>
    public void Read(ulong offset, Span<byte> destination)
    {
        var bar = (BinaryPrimitives.ReadUInt32LittleEndian(_bar) & ~(PortBytes - 1u)) | PCI_BASE_ADDRESS_SPACE_IO;
        Put(offset, destination, PCI_DEVICE_ID, sizeof(ushort), TransitionalNet);
        Put(offset, destination, PCI_REVISION_ID, sizeof(byte), TransitionalRevision);
        Put(offset, destination, PCI_BASE_ADDRESS_0, sizeof(uint), bar);
        Put(offset, destination, PCI_SUBSYSTEM_VENDOR_ID, sizeof(ushort), VirtioVfioPciDriver.Vendor);
        Put(offset, destination, PCI_SUBSYSTEM_ID, sizeof(ushort), SubsystemNet);
        if (_isIoEnabled && VfioPciOverlap.TryFind(offset, destination.Length, PCI_COMMAND, sizeof(byte), out var command))
            destination[command.BufferOffset] |= PCI_COMMAND_IO;
    }

    /// <summary>Takes what of a write is emulated.</summary>
    /// <param name="offset">First byte that was written.</param>
    /// <param name="source">What was written.</param>
    public void Write(ulong offset, ReadOnlySpan<byte> source)
    {
        if (VfioPciOverlap.TryFind(offset, source.Length, PCI_COMMAND, sizeof(byte), out var command))
            _isIoEnabled = (source[command.BufferOffset] & PCI_COMMAND_IO) != 0;
        if (VfioPciOverlap.TryFind(offset, source.Length, PCI_BASE_ADDRESS_0, sizeof(uint), out var bar))
            source.Slice(bar.BufferOffset, bar.Count).CopyTo(_bar.AsSpan(bar.RegisterOffset));
    }

    private static void Put(ulong offset, Span<byte> destination, int register, int size, uint value)
    {
        if (!VfioPciOverlap.TryFind(offset, destination.Length, (ulong)register, size, out var overlap))
            return;
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        bytes.Slice(overlap.RegisterOffset, overlap.Count).CopyTo(destination[overlap.BufferOffset..]);
    }
}
