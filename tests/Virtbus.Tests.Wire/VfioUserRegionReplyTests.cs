using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Wire;

/// <summary>A region's info with its capabilities: to the byte as it is written, and whatever a server may write instead.</summary>
public sealed class VfioUserRegionReplyTests : IDisposable
{
    private const ulong Size = 0x10000;
    private readonly FileDescriptor _file = MemoryFile.Create("virtbus-test", Size);
    private readonly List<VfioRegionArea> _read = [];

    public void Dispose()
    {
        _read.ForEach(area => area.File.Dispose());
        _file.Dispose();
    }

    private static byte[] Info(uint flags, uint capabilities, ulong size = Size, ulong offset = 0x1000) => [.. Words(0, flags, 0, capabilities), .. Longs(size, offset)];

    private static byte[] Head(ushort id, uint next) => [(byte)id, (byte)(id >> 8), 1, 0, .. Words(next)];

    private static byte[] Areas(uint next, uint count, params ulong[] numbers) => [.. Head(1, next), .. Words(count, 0), .. Longs(numbers)];

    private Errno Read(byte[] reply, out VfioRegionInfo? info, int descriptors = 1)
    {
        var good = VfioUserRegionReply.TryRead(reply, [.. Enumerable.Repeat(_file, descriptors)], out info, out var fault);
        Assert.Equal(good, fault == Fault.None);
        Assert.Equal(good, info is not null);
        _read.AddRange(info?.Areas ?? []);
        return fault.Errno;
    }

    private string Text(byte[] reply, int descriptors = 1)
    {
        if (Read(reply, out var info, descriptors) is var error and not Errno.None)
            return error.ToString();
        var type = info!.Type is { } known ? $" type {known.Type}.{known.Subtype}" : "";
        return $"{(uint)info.Flags} {info.Size:x}{type}{string.Concat(info.Areas.Select(area => $" [{area.Offset:x} {area.Size:x} at {area.FileOffset:x}]"))}";
    }

    [Fact]
    public void Capabilities_are_written_one_behind_the_other_as_linux_vfio_h_has_them()
    {
        VfioRegionArea[] areas = [new(0x1000, 0x2000, _file, 0), new(0x8000, 0x1000, _file, 0)];
        var type = new VfioRegionType(5, 6);
        foreach (var (count, named, expected) in new[]
        {
            (0, default(VfioRegionType?), Array.Empty<byte>()),
            (0, type, [.. Head(2, 0), .. Words(5, 6)]),
            (2, null, Areas(0, 2, 0x1000, 0x2000, 0x8000, 0x1000)),
            (1, type, [.. Areas(64, 1, 0x1000, 0x2000), .. Head(2, 0), .. Words(5, 6)]),
            (2, type, [.. Areas(80, 2, 0x1000, 0x2000, 0x8000, 0x1000), .. Head(2, 0), .. Words(5, 6)]),
        })
        {
            Assert.Equal(32 + expected.Length, VfioUserRegionReply.SizeOf(count, named is not null));
            var reply = new byte[32 + expected.Length];
            Info(15, 32).CopyTo(reply, 0);
            VfioUserRegionReply.WriteCapabilities(reply, areas.AsSpan(0, count), named);
            Assert.Equal([.. Info(15, 32), .. expected], reply);
        }
    }

    [Fact]
    public void Region_without_capabilities_is_one_area_if_there_is_something_to_map()
    {
        Assert.Equal("7 10000 [0 10000 at 1000]", Text(Info(7, 0)));
        // The offset means nothing without its flag, nor do flags that are not known.
        Assert.Equal("7 10000 [0 10000 at 1000]", Text([.. Info(0xfffffff7, 32), .. Areas(0, 1, 0, 0x1000)]));
        Assert.Equal("3 10000", Text(Info(3, 0)));
        Assert.Equal("3 10000", Text(Info(7, 0), descriptors: 0));
        Assert.Equal("3 10000", Text(Info(7, 0), descriptors: 2));
        Assert.Equal("3 0", Text(Info(7, 0, size: 0)));
        Assert.Equal("0 10000", Text(Info(0, 0)));
        Assert.Equal("7 10000 [0 10000 at 1000]", Text(Info(15, 0)));
        Assert.Equal("1 10000 type 5.6", Text([.. Info(9, 32), .. Head(2, 0), .. Words(5, 6)]));
    }

    [Fact]
    public void Areas_outside_of_the_region_are_passed_over()
    {
        Assert.Equal("7 10000 [1000 2000 at 2000] [8000 1000 at 9000]", Text([.. Info(15, 32), .. Areas(0, 2, 0x1000, 0x2000, 0x8000, 0x1000)]));
        Assert.Equal("7 10000 type 5.6 [1000 2000 at 2000]", Text([.. Info(15, 32), .. Areas(64, 1, 0x1000, 0x2000), .. Head(2, 0), .. Words(5, 6)]));
        Assert.Equal("7 10000 [f000 1000 at 10000]",
            Text([.. Info(15, 32), .. Areas(0, 6, 0, 0, 0xf000, 0x1000, 0xf000, 0x1001, 0x10000, 1, 0x10001, 1, ulong.MaxValue, 2)]));
        Assert.Equal("3 10000", Text([.. Info(15, 32), .. Areas(0, 0)]));
        // What the sum is where it does not fit is the map's to refuse.
        Assert.Equal("7 10000 [1000 1000 at fff]", Text([.. Info(15, 32, offset: ulong.MaxValue), .. Areas(0, 1, 0x1000, 0x1000)]));
    }

    [Fact]
    public void Capabilities_lie_inside_of_the_answer_and_not_in_a_circle()
    {
        Assert.Equal("EPROTO", Text([.. Info(15, 31), .. Head(9, 0)]));
        Assert.Equal("3 10000", Text([.. Info(11, 32), .. Head(9, 0)]));
        Assert.Equal("EPROTO", Text([.. Info(15, 33), .. Head(9, 0)]));
        Assert.Equal("EPROTO", Text([.. Info(15, 40), .. Head(9, 0)]));
        Assert.Equal("EPROTO", Text(Info(15, 32)));
        Assert.Equal("EPROTO", Text([.. Info(15, 32), .. Head(9, 32)]));
        Assert.Equal("EPROTO", Text([.. Info(15, 32), .. Head(9, uint.MaxValue)]));
        Assert.Equal("EPROTO", Text([.. Info(15, 0x8000_0020), .. Head(9, 0)]));
        foreach (var (count, expected) in new[] { (64, "3 10000"), (65, "EPROTO") })
            Assert.Equal(expected, Text([.. Info(11, 32), .. Enumerable.Range(1, count).SelectMany(i => Head(9, i == count ? 0 : (uint)(32 + (8 * i))))]));
    }

    [Fact]
    public void Capability_that_is_cut_off_is_passed_over()
    {
        Assert.Equal("7 10000 [0 10000 at 1000]", Text([.. Info(15, 32), .. Areas(0, 0)[..15]]));
        Assert.Equal("1 10000", Text([.. Info(9, 32), .. Head(2, 0), .. Words(5, 6)[..7]]));
    }

    [Theory]
    [InlineData(1u, 16, true)]
    [InlineData(1u, 15, false)]
    [InlineData(2u, 31, false)]
    [InlineData(2u, 32, true)]
    [InlineData(1u, 0, false)]
    [InlineData(uint.MaxValue, 64, false)]
    public void Areas_have_to_be_there(uint count, int bytes, bool isGood)
    {
        var reply = new byte[48 + bytes];
        Info(15, 32).CopyTo(reply, 0);
        Areas(0, count).CopyTo(reply, 32);
        Assert.Equal(isGood ? Errno.None : Errno.EPROTO, Read(reply, out _));
    }

    [Theory]
    [InlineData(1024, true)]
    [InlineData(1025, false)]
    [InlineData(60_000, false)]
    public void Areas_of_a_region_share_one_descriptor_and_are_bounded(int count, bool isTaken)
    {
        var reply = new byte[32 + 16 + (count * 16)];
        BinaryPrimitives.WriteUInt32LittleEndian(reply, (uint)reply.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(reply.AsSpan(4), 7 | 8);
        BinaryPrimitives.WriteUInt32LittleEndian(reply.AsSpan(12), 32);
        BinaryPrimitives.WriteUInt64LittleEndian(reply.AsSpan(16), 1UL << 40);
        BinaryPrimitives.WriteUInt16LittleEndian(reply.AsSpan(32), 1);
        BinaryPrimitives.WriteUInt32LittleEndian(reply.AsSpan(40), (uint)count);
        for (var i = 0; i < count; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(reply.AsSpan(48 + (i * 16)), (ulong)i * 8192);
            BinaryPrimitives.WriteUInt64LittleEndian(reply.AsSpan(56 + (i * 16)), 4096);
        }

        using var file = MemoryFile.Create("virtbus-test", 4096);
        var before = Kernel.DescriptorsBefore();
        Assert.Equal(isTaken, VfioUserRegionReply.TryRead(reply, [file], out var info, out var fault));
        Assert.Equal(isTaken ? Errno.None : Errno.E2BIG, fault.Errno);
        Assert.Equal(isTaken ? before + 1 : before, Kernel.Descriptors);
        Assert.Equal(isTaken ? count : 0, info?.Areas.Count ?? 0);
        foreach (var area in info?.Areas ?? [])
            area.File.Dispose();
        Assert.Equal(before, Kernel.Descriptors);
    }
}
