using System.Buffers.Binary;
using Virtbus.Pci;

namespace Virtbus.Tests;

/// <summary>Accesses of 8, 16 and 32 bits, as software makes them.</summary>
internal static class FunctionAccess
{
    internal static uint Config(this IPciFunction function, int offset, int bytes = 4)
    {
        Span<byte> value = stackalloc byte[4];
        value.Clear();
        function.ReadConfig(offset, value[..bytes]);
        return BinaryPrimitives.ReadUInt32LittleEndian(value);
    }

    internal static void SetConfig(this IPciFunction function, int offset, uint value, int bytes = 4)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        function.WriteConfig(offset, data[..bytes]);
    }

    internal static uint Register(this IPciFunction function, int bar, ulong offset, int bytes = 4)
    {
        Span<byte> value = stackalloc byte[4];
        value.Clear();
        function.ReadBar(bar, offset, value[..bytes]);
        return BinaryPrimitives.ReadUInt32LittleEndian(value);
    }

    internal static void SetRegister(this IPciFunction function, int bar, ulong offset, uint value, int bytes = 4)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        function.WriteBar(bar, offset, data[..bytes]);
    }

    internal static int Capability(this IPciFunction function, byte id)
    {
        var at = (int)function.Config(PciHeader.PCI_CAPABILITY_LIST, 1);
        while (at != 0 && function.Config(at, 1) != id)
            at = (int)function.Config(at + 1, 1);
        return at;
    }

    internal static int ExtendedCapability(this IPciFunction function, ushort id)
    {
        var at = 0x100;
        while (at != 0 && function.Config(at, 2) != id)
            at = (int)(function.Config(at) >> 20);
        return at;
    }
}
