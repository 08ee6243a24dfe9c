using System.Buffers.Binary;
using FsCheck;
using FsCheck.Fluent;
using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Config;

public sealed class WriteMaskTests
{
    // Registers that refuse some values have tests of their own; a write that starts a reset is none of this test's business.
    private static readonly int[] _special = [Layouts.Power, Layouts.NumVfs, Layouts.PageSize, 0x8C, 0x160];

    public static TheoryData<int> Kinds { get; } = [0, 1, 2, 3];

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Layout_has_the_bits_that_the_standards_give(int kind)
    {
        var (_, make, bits) = Layouts.All[kind];
        using var function = make();
        var layout = function.ConfigLayout;
        byte[] writable = layout.GetWritableBits(), clearable = layout.GetClearableBits();
        for (var offset = 0; offset < layout.Size; offset += 4)
        {
            var expected = Array.Find(bits, b => b.Offset == offset && offset != 0);
            Assert.True(
                expected.Writable == BinaryPrimitives.ReadUInt32LittleEndian(writable.AsSpan(offset))
                && expected.Clearable == BinaryPrimitives.ReadUInt32LittleEndian(clearable.AsSpan(offset)),
                $"0x{offset:x}: writable {BinaryPrimitives.ReadUInt32LittleEndian(writable.AsSpan(offset)):x8} clearable {BinaryPrimitives.ReadUInt32LittleEndian(clearable.AsSpan(offset)):x8}");
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void All_ones_set_the_writable_bits_and_zeros_clear_them(int kind)
    {
        var (_, make, bits) = Layouts.All[kind];
        using var function = make();
        var before = Dump(function);
        foreach (var offset in Registers(function))
        {
            var writable = Array.Find(bits, b => b.Offset == offset).Writable;
            var value = BinaryPrimitives.ReadUInt32LittleEndian(before.AsSpan(offset));
            // Once as a dword, once byte by byte.
            function.SetConfig(offset, WithoutReset(kind, offset, uint.MaxValue));
            Assert.Equal(value | writable, function.Config(offset));
            for (var i = 0; i < 4; i++)
                function.SetConfig(offset + i, 0, 1);
            Assert.Equal(value & ~writable, function.Config(offset));
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Clearable_bits_are_cleared_by_ones_and_only_by_ones(int kind)
    {
        var (_, make, bits) = Layouts.All[kind];
        using var function = make();
        var space = new ConfigSpace(function.ConfigLayout);
        foreach (var (offset, _, clearable) in bits)
        {
            var before = space.Read32(offset);
            space.Set(offset, clearable, clearable);
            Assert.Equal(before | clearable, space.Read32(offset));
            for (var left = clearable; left != 0; left &= left - 1)
            {
                var lowest = left & (~left + 1);
                Write(space, offset, space.Read32(offset) & ~clearable);
                Assert.Equal(left, space.Read32(offset) & clearable);
                Write(space, offset, (space.Read32(offset) & ~clearable) | lowest);
                Assert.Equal(left & ~lowest, space.Read32(offset) & clearable);
            }
            Assert.Equal(before, space.Read32(offset));
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Random_writes_of_any_length_agree_with_the_masks(int kind)
    {
        var (_, make, bits) = Layouts.All[kind];
        var writes = Gen.Zip(Gen.Choose(0, 0x1B0), Gen.Zip(Gen.Choose(1, 12), Gen.Choose(0, int.MaxValue - 1))).ListOf().ToArbitrary();
        Check.QuickThrowOnFailure(Prop.ForAll(writes, list =>
        {
            using var function = make();
            var model = Dump(function);
            foreach (var (offset, (length, seed)) in list)
            {
                var data = new byte[length];
                new Random(seed).NextBytes(data);
                if (offset + length > function.ConfigSize || IsSpecial(kind, offset, length))
                    continue;
                for (var i = 0; i < length; i++)
                {
                    var (_, writable, _) = Array.Find(bits, b => b.Offset == ((offset + i) & ~3));
                    var mask = (byte)(writable >> (8 * ((offset + i) & 3)));
                    if (((offset + i) & ~3) == 0)
                        mask = 0;
                    model[offset + i] = (byte)((model[offset + i] & ~mask) | (data[i] & mask));
                }
                function.WriteConfig(offset, data);
            }
            Assert.Equal(model, Dump(function));
        }));
    }

    [Fact]
    public void Reads_of_any_offset_and_length_agree_and_end_in_ones()
    {
        using var function = Layouts.All[0].Make();
        var all = Dump(function);
        foreach (var (offset, length) in new[] { (0, 1), (1, 2), (3, 7), (0x3E, 4), (0xFC, 16), (4090, 6), (100, 1000) })
        {
            var part = new byte[length];
            function.ReadConfig(offset, part);
            Assert.Equal(all.AsSpan(offset, length).ToArray(), part);
        }
        var beyond = new byte[8];
        function.ReadConfig(4092, beyond);
        Assert.Equal([0xFF, 0xFF, 0xFF, 0xFF], beyond[4..]);
        function.WriteConfig(4092, beyond);
        Assert.Equal(all, Dump(function));
    }

    [Fact]
    public void Config_accesses_allocate_nothing()
    {
        using var function = Layouts.All[0].Make();
        var value = new byte[4];
        for (var round = 0; round < 2; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 1000; i++)
            {
                function.ReadConfig(0x48, value);
                function.ReadConfig(0x0E, value.AsSpan(0, 1));
                function.WriteConfig(0x4C, value);
                function.WriteConfig(0x04, value);
            }
            if (round == 1)
                Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        }
    }

    private static void Write(ConfigSpace space, int offset, uint value)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        space.Write(offset, data);
    }

    private static byte[] Dump(IPciFunction function)
    {
        var bytes = new byte[function.ConfigSize];
        function.ReadConfig(0, bytes);
        return bytes;
    }

    private static IEnumerable<int> Registers(IPciFunction function) =>
        Enumerable.Range(0, function.ConfigSize / 4).Select(i => 4 * i).Where(o => !IsSpecial(o));

    private static bool IsSpecial(int offset) => Array.IndexOf(_special, offset) >= 0;

    private static bool IsSpecial(int kind, int offset, int length)
    {
        for (var at = offset & ~3; at < offset + length; at += 4)
        {
            if (IsSpecial(at) || IsDeviceControl(kind, at))
                return true;
        }
        return false;
    }

    private static bool IsDeviceControl(int kind, int offset) => (kind, offset) is (0, 0x74) or (1, 0x48);

    private static uint WithoutReset(int kind, int offset, uint value) => IsDeviceControl(kind, offset) ? value & ~0x8000u : value;
}
