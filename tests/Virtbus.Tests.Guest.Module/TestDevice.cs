using System.Text;
using Virtbus.Buses.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Guest.Module;

/// <summary>QEMU's device that counts accesses (docs/specs/pci-testdev.rst there): the same tests behind memory and behind ports.</summary>
internal sealed class TestDevice(PciDevice device)
{
    internal const uint Vendor = 0x1B36;
    internal const uint Device = 0x0005;

    private const ulong Test = 0, Offset = 4, Data = 8, Count = 12, Name = 16;
    private const int LongestName = 32;
    private const int Writes = 3;

    /// <summary>Runs the test that counts plain writes of a byte, and one of them must be of another value.</summary>
    internal void Run(int bar)
    {
        var region = device.GetRegion(bar);
        Write(region, Test, 0);
        var name = new StringBuilder();
        for (var i = 0UL; i < LongestName && Read(region, Name + i) is not 0 and var letter; i++)
            name.Append((char)letter);
        var offset = 0UL;
        for (var i = 0UL; i < 4; i++)
            offset |= (ulong)Read(region, Offset + i) << (int)(8 * i);
        var data = Read(region, Data);
        for (var i = 0; i < Writes; i++)
            Write(region, offset, data);
        Write(region, offset, (byte)~data);
        Console.WriteLine($"testdev BAR {bar} {region.Bar.Kind} of {region.Bar.Size} bytes, {name}: {Read(region, Count)} of {Writes}");
    }

    private static byte Read(PciRegion region, ulong offset)
    {
        Span<byte> value = stackalloc byte[1];
        return region.TryRead(offset, value, out var fault) ? value[0] : throw new VirtbusException(fault.Errno, fault.Message);
    }

    private static void Write(PciRegion region, ulong offset, byte value)
    {
        if (!region.TryWrite(offset, [value], out var fault))
            throw new VirtbusException(fault.Errno, fault.Message);
    }
}
