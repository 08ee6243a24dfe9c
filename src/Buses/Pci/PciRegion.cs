using System.Buffers.Binary;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <summary>A BAR of a device as its driver uses it: an address on the bus, and the registers behind. Any thread.</summary>
/// <remarks>
/// While the function does not decode (Memory or I/O Space Enable off, or the device gone), reads give all ones and writes are lost, as on
/// hardware. Registers are little endian.
/// </remarks>
public sealed class PciRegion
{
    internal PciRegion(PciDevice device, int index)
    {
        Device = device;
        Index = index;
        var resource = device.GetResource(index);
        Bar = new PciBar(resource.Kind, resource.Size, resource.IsPrefetchable);
        Start = resource.Start;
    }

    /// <summary>Whose it is.</summary>
    public PciDevice Device { get; }

    /// <summary>0 to 5, or <see cref="PciBar.Rom"/>.</summary>
    public int Index { get; }

    /// <summary>What it decodes.</summary>
    public PciBar Bar { get; }

    /// <summary>Address on the bus; 0 when none was assigned.</summary>
    public ulong Start { get; }

    /// <summary>Whether the function decodes it now.</summary>
    public bool IsEnabled => Device.Hardware.IsDecoding(Bar.Kind);

    /// <summary>The parts of it that may be mapped; none for most.</summary>
    public IReadOnlyList<PciBarArea> Areas => Device.Function.GetBarAreas(Index);

    /// <summary>Reads registers.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <returns>False when the function does not decode or the range leaves the BAR; all ones are read then.</returns>
    public bool Read(ulong offset, Span<byte> destination) => TryRead(offset, destination, out _);

    /// <summary>Writes registers.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from.</param>
    /// <returns>False when the function does not decode or the range leaves the BAR; nothing is written then.</returns>
    public bool Write(ulong offset, ReadOnlySpan<byte> source) => TryWrite(offset, source, out _);

    /// <summary>Reads registers, and says why not.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to; all ones when the answer is false.</param>
    /// <param name="fault">EINVAL: the access leaves the BAR; EIO: the function does not decode it now, or is gone.</param>
    public bool TryRead(ulong offset, Span<byte> destination, out Fault fault) => Device.Hardware.TryReadBar(this, offset, destination, out fault);

    /// <summary>Writes registers, and says why not.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from; nothing of it is written when the answer is false.</param>
    /// <param name="fault">As for <see cref="TryRead"/>.</param>
    public bool TryWrite(ulong offset, ReadOnlySpan<byte> source, out Fault fault) => Device.Hardware.TryWriteBar(this, offset, source, out fault);

    /// <summary>Whether an access would lie inside; for who answers a part of it by itself.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="fault">EINVAL: it would not.</param>
    public bool Holds(ulong offset, int length, out Fault fault) => PciHardware.IsInside(this, offset, length, out fault);

    /// <summary>
    /// As <see cref="TryRead"/>, as one processor after the other would: one register at a time, each naturally aligned. For accesses that
    /// somebody else asked for.
    /// </summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to; any length.</param>
    /// <param name="fault">As for <see cref="TryRead"/>.</param>
    public bool TryReadRegisters(ulong offset, Span<byte> destination, out Fault fault) => Device.Hardware.TryReadRegisters(this, offset, destination, out fault);

    /// <summary>As <see cref="TryWrite"/>, register by register as <see cref="TryReadRegisters"/>.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from; any length.</param>
    /// <param name="fault">As for <see cref="TryRead"/>.</param>
    public bool TryWriteRegisters(ulong offset, ReadOnlySpan<byte> source, out Fault fault) => Device.Hardware.TryWriteRegisters(this, offset, source, out fault);

    /// <summary>The length of the naturally aligned register at an offset.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="left">Bytes that are left of the access.</param>
    public static int RegisterAt(ulong offset, int left)
    {
        var length = 8;
        while (length > left || (offset & (ulong)(length - 1)) != 0)
            length >>= 1;
        return length;
    }

    /// <summary>Reads the ROM, whatever its enable bit says (Linux: pci_map_rom, which sets it for as long). Only of <see cref="PciBar.Rom"/>.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to; all ones when the function is gone.</param>
    /// <param name="fault">EINVAL: it is not the ROM, or the access leaves it.</param>
    public bool TryReadRom(ulong offset, Span<byte> destination, out Fault fault)
    {
        if (Index == PciBar.Rom)
            return Device.Hardware.TryReadRom(this, offset, destination, out fault);
        destination.Fill(0xFF);
        fault = new Fault(Errno.EINVAL, "the BAR is not the ROM");
        return false;
    }

    /// <summary>Reads a 32-bit register.</summary>
    /// <param name="offset">Byte offset.</param>
    public uint Read32(ulong offset)
    {
        Span<byte> bytes = stackalloc byte[4];
        Read(offset, bytes);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    /// <summary>Writes a 32-bit register.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="value">The value.</param>
    public void Write32(ulong offset, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        Write(offset, bytes);
    }

    /// <summary>Reads a 64-bit register.</summary>
    /// <param name="offset">Byte offset.</param>
    public ulong Read64(ulong offset)
    {
        Span<byte> bytes = stackalloc byte[8];
        Read(offset, bytes);
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    /// <summary>Writes a 64-bit register.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="value">The value.</param>
    public void Write64(ulong offset, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        Write(offset, bytes);
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Device.Name} BAR {Index}";
}
