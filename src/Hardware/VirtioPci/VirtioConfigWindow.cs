using System.Buffers.Binary;
using Virtbus.Pci;
using static Virtbus.Hardware.VirtioPci.VirtioFunctionLayout;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>
/// The window in config space by which firmware reaches a BAR that it has not mapped (VIRTIO 1.3, 4.1.4.9): an access to the data of the capability is one
/// to the BAR, of as many bytes as the capability's length says. One that would not be right there reads as it was, and writes nothing. The MSI-X table is
/// not reached by it: where somebody else sets up the messages, the driver would write past that.
/// </summary>
internal sealed class VirtioConfigWindow(PciFunction function, ConfigSpace config, int place)
{
    internal void Reading(int offset, int length)
    {
        if (!IsData(offset, length) || !TryGet(out var bar, out var at, out var size))
            return;
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        bytes.Clear();
        function.ReadBar(bar, at, bytes[..size]);
        config.Set(place + WindowData, uint.MaxValue, BinaryPrimitives.ReadUInt32LittleEndian(bytes));
    }

    internal void Written(int offset, int length)
    {
        if (!IsData(offset, length) || !TryGet(out var bar, out var at, out var size))
            return;
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, config.Read32(place + WindowData));
        function.WriteBar(bar, at, bytes[..size]);
    }

    private bool IsData(int offset, int length) => offset < place + WindowData + sizeof(uint) && place + WindowData < offset + length;

    private bool TryGet(out int bar, out ulong offset, out int size)
    {
        bar = config.Read8(place + WindowBar);
        offset = config.Read32(place + WindowOffset);
        var length = config.Read32(place + WindowLength);
        size = (int)(length & 7);
        if (length is not (1 or 2 or 4) || bar is not (RegisterBar or SharedBar or LegacyBar) || offset % length != 0)
            return false;
        var behind = function.GetBar(bar);
        return behind.Kind is PciBarKind.Io or PciBarKind.Memory32 or PciBarKind.Memory64 && offset + length <= behind.Size;
    }
}
