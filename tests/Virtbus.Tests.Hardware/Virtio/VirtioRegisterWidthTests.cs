using System.Buffers.Binary;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>
/// Every register of each kind of function, in each layout and state, at every width and place: a read gives the bytes that are there, a write changes what
/// is written to and nothing else.
/// </summary>
public sealed class VirtioRegisterWidthTests(ITestOutputHelper output)
{
    private static readonly byte[][] Values = [[0x5A, 0x5A, 0x5A, 0x5A, 0x5A, 0x5A, 0x5A, 0x5A], [1, 1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]];

    public static TheoryData<string, int> Worlds()
    {
        var all = new TheoryData<string, int>();
        foreach (var kind in WidthWorld.Kinds)
        {
            foreach (var state in Enum.GetValues<WidthState>())
            {
                if (kind != "rng" || state is WidthState.Reset or WidthState.Running)
                    all.Add(kind, (int)state);
            }
        }

        return all;
    }

    [Theory]
    [MemberData(nameof(Worlds))]
    public void Every_read_gives_the_bytes_that_are_there(string kind, int state)
    {
        using var world = new WidthWorld(kind, (WidthState)state);
        var picture = world.Picture();
        var count = 0;
        foreach (var (bar, offset, width) in world.Places())
        {
            var bytes = world.Card.Bar(bar, (ulong)offset, width);
            for (var i = 0; i < width; i++)
            {
                var place = world.PlaceOf(bar, offset + i);
                var expected = place < 0 ? (byte)0 : picture[place];
                Assert.True(bytes[i] == expected, $"BAR {bar}, {width} bytes at 0x{offset:x}: byte {i} is {bytes[i]:x}, and {expected:x} is there");
            }

            count++;
        }

        Assert.True(picture.AsSpan().SequenceEqual(world.Picture()), "a read changed something");
        output.WriteLine($"{count} reads");
    }

    [Theory]
    [MemberData(nameof(Worlds))]
    public void Every_write_changes_what_it_is_to_and_nothing_else(string kind, int state)
    {
        using var world = new WidthWorld(kind, (WidthState)state);
        var before = world.Picture();
        var (count, changes) = (0, 0);
        foreach (var (bar, offset, width) in world.Places())
        {
            foreach (var value in Values)
            {
                world.Function.WriteBar(bar, (ulong)offset, value.AsSpan(0, width));
                var after = world.Picture();
                count++;
                var at = before.AsSpan().CommonPrefixLength(after);
                if (at == before.Length)
                    continue;
                changes++;
                var allowed = Allowed(world, bar, offset, width, value);
                for (; at < before.Length; at++)
                {
                    Assert.True(before[at] == after[at] || allowed is null || Array.Exists(allowed, place => place == at),
                        $"BAR {bar}, {width} bytes {value[0]:x} {value[1]:x} at 0x{offset:x} change byte 0x{at:x} of the picture from {before[at]:x} to {after[at]:x}");
                }

                if (bar == 1 && offset < world.PendingAt)
                    CheckTable(world, before, after, offset, value.AsSpan(0, width));
                world.Restore();
                Assert.True(before.AsSpan().SequenceEqual(world.Picture()), $"after BAR {bar}, {width} bytes at 0x{offset:x} a reset does not bring all back");
            }
        }

        output.WriteLine($"{count} writes, {changes} of them changed something");
        Assert.True(changes > 20);
    }

    [Theory]
    [MemberData(nameof(Worlds))]
    public void Window_reads_and_writes_as_an_access_to_the_bar_does(string kind, int state)
    {
        using var world = new WidthWorld(kind, (WidthState)state);
        var window = world.Card.Registers.Window.Capability;
        var picture = world.Picture();
        foreach (var (bar, offset) in Aims(world))
        {
            for (var length = 0u; length <= 9; length++)
            {
                var isRight = length is 1 or 2 or 4 && offset % length == 0 && bar is 0 or 4 && (ulong)offset + length <= world.Function.GetBar(bar).Size
                    && (bar == 4 || world.IsTransitional);
                Aim(world, window, bar, (uint)offset, length, 0x11223344);
                foreach (var (at, width) in ((int, int)[])[(0, 1), (0, 2), (0, 4), (1, 1), (2, 2), (3, 1), (1, 2)])
                {
                    // What the last access left there, or what is in the BAR now.
                    var expected = new byte[4];
                    if (isRight)
                        world.Card.Bar(bar, (ulong)offset, (int)length).CopyTo(expected, 0);
                    else
                        BinaryPrimitives.WriteUInt32LittleEndian(expected, 0x11223344);
                    var bytes = new byte[width];
                    world.Function.ReadConfig(window + 16 + at, bytes);
                    Assert.True(expected.AsSpan(at, width).SequenceEqual(bytes), $"BAR {bar}, {length} bytes at 0x{offset:x} by the window, {width} bytes of it at {at}");
                }
            }
        }

        // One that is not right writes nothing.
        Aim(world, window, 0, 0, 0, 0);
        var before = world.Picture();
        foreach (var (bar, offset) in Aims(world))
        {
            for (var length = 0u; length <= 9; length++)
            {
                var isRight = length is 1 or 2 or 4 && offset % length == 0 && bar is 0 or 4 && (ulong)offset + length <= world.Function.GetBar(bar).Size;
                if (isRight)
                    continue;
                Aim(world, window, bar, (uint)offset, length, 0);
                world.Function.WriteConfig(window + 16, [0, 0, 0, 0]);
                Aim(world, window, 0, 0, 0, 0);
                Assert.True(before.AsSpan().SequenceEqual(world.Picture()), $"BAR {bar}, {length} bytes at 0x{offset:x} by the window wrote something");
            }
        }

        Assert.Equal(picture.Length, before.Length);
    }

    // Places in the picture that a write may change; null for all of them, as a reset does.
    private static int[]? Allowed(WidthWorld world, int bar, int offset, int width, byte[] value) => bar switch
    {
        4 when offset < 0x1000 => Common(world, offset, width, value),
        4 when offset >= 0x2000 && offset < 0x3000 => Config(world, 4, 0x2000, offset - 0x2000, width, value),
        1 => Range(world, 1, offset, width),
        0 => Legacy(world, offset, width, value),
        _ => [],
    };

    private static int[]? Common(WidthWorld world, int offset, int width, byte[] value) => (offset, width) switch
    {
        (device_feature_select, 4) => Range(world, 4, 0, 8),
        (driver_feature_select, 4) => Range(world, 4, 8, 8),
        (driver_feature, 4) when !world.IsRunning => Range(world, 4, offset, 4),
        (config_msix_vector, 2) when world.Function.Device.QueueCount > 0 => [.. Range(world, 4, offset, 2), .. Range(world, 0, 20, 2)],
        (device_status, 1) when value[0] == 0 => null,
        (device_status, 1) when !world.IsRunning && value[0] == 1 => Range(world, 4, offset, 1),
        (queue_select, 2) => Range(world, 4, queue_select, queue_notify_data + 2 - queue_select),
        (queue_msix_vector, 2) => [.. Range(world, 4, offset, 2), .. Range(world, 0, 22, 2)],
        (queue_enable, 2) => Range(world, 4, offset, 2),
        (queue_reset, 2) when value[0] == 1 && value[1] == 0 => [.. Range(world, 4, queue_size, queue_notify_data + 4 - queue_size), .. Range(world, 0, 22, 2)],
        (queue_size, 2) when !world.IsRunning => Range(world, 4, offset, 2),
        (queue_desc or queue_driver or queue_device, 8) when !world.IsRunning => Range(world, 4, offset, 8),
        (>= queue_desc and < queue_notify_data, 4) when offset % 4 == 0 && !world.IsRunning => Range(world, 4, offset, 4),
        _ => [],
    };

    // The cache mode of a disk; the address of a network device, by a driver that took no VERSION_1.
    private static int[] Config(WidthWorld world, int bar, int start, int offset, int width, byte[] value) => world.Kind switch
    {
        "blk" when offset == 32 && width == 1 && value[0] < 2 => [.. Range(world, 4, 0x2020, 1), .. Range(world, 0, world.LegacyHeader + 32, 1)],
        "net" when offset + width <= 6 && !(world.IsRunning && !world.IsTransitional) => [.. Range(world, 4, 0x2000, 6), .. Range(world, 0, world.LegacyHeader, 6)],
        _ => [],
    };

    private static int[]? Legacy(WidthWorld world, int offset, int width, byte[] value) => (offset, width) switch
    {
        (4, 4) when !world.IsRunning => Range(world, 0, 4, 4),
        // The ring is elsewhere, or nowhere, and so it stands in the registers of the standard.
        (8, 4) => [.. Range(world, 0, 8, 4), .. Range(world, 4, queue_select, queue_notify_data + 4 - queue_select), .. Range(world, 0, 22, 2), .. Range(world, 4, device_status, 1)],
        (14, 2) => [.. Range(world, 0, 8, 8), .. Range(world, 0, 22, 2), .. Range(world, 4, queue_select, queue_notify_data + 2 - queue_select)],
        (18, 1) when value[0] == 0 => null,
        (18, 1) => Range(world, 0, 18, 1),
        (20, 2) when world.HasMessages => [.. Range(world, 0, 20, 2), .. Range(world, 4, config_msix_vector, 2)],
        (22, 2) when world.HasMessages => [.. Range(world, 0, 22, 2), .. Range(world, 4, queue_msix_vector, 2)],
        _ when offset >= world.LegacyHeader => Config(world, 0, world.LegacyHeader, offset - world.LegacyHeader, width, value),
        _ => [],
    };

    private static int[] Range(WidthWorld world, int bar, int offset, int length) =>
        [.. Enumerable.Range(offset, length).Select(at => world.PlaceOf(bar, at)).Where(static place => place >= 0)];

    // Byte for byte, but for bits that there are not.
    private static void CheckTable(WidthWorld world, byte[] before, byte[] after, int offset, ReadOnlySpan<byte> value)
    {
        var table = (world.Queues + 1) * 16;
        for (var i = 0; i < value.Length && offset + i < table; i++)
        {
            var writable = ((offset + i) % 16) switch { 0 => 0xFC, 12 => 1, 13 or 14 or 15 => 0, _ => 0xFF };
            var place = world.PlaceOf(1, offset + i);
            Assert.Equal((value[i] & writable) | (before[place] & ~writable), after[place]);
        }
    }

    private static IEnumerable<(int Bar, int Offset)> Aims(WidthWorld world)
    {
        int[] offsets = [0, 1, 2, 4, 8, 0x10, 0x12, 0x13, 0x14, 0x15, 0x16, 0x18, 0x1C, 0x20, 0x38, 0x3F, 0x40, 0xFFF, 0x1000, 0x2000, 0x2001, 0x2020, 0x2FFF, 0x3FFC, 0x3FFD, 0x3FFE, 0x3FFF, 0x4000, int.MaxValue - 3];
        for (var bar = 0; bar < 8; bar++)
        {
            foreach (var offset in offsets)
            {
                // The ISR, whose reads are no reads, is another test's.
                if (bar != 0 || offset != 0x13)
                    yield return (bar, offset);
            }
        }
    }

    private static void Aim(WidthWorld world, int window, int bar, uint offset, uint length, uint data)
    {
        Span<byte> bytes = stackalloc byte[8];
        // Nowhere first, so that the data can be set.
        world.Function.WriteConfig(window + 12, bytes[..4]);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, data);
        world.Function.WriteConfig(window + 16, bytes[..4]);
        world.Function.WriteConfig(window + 4, [(byte)bar]);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, offset);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[4..], length);
        world.Function.WriteConfig(window + 8, bytes);
    }
}
