using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioCommonConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>Registers of a virtio function under accesses that no good driver makes: any width, any place, any order, at any moment.</summary>
public sealed class VirtioRegisterAccessTests
{
    // Offset, width, bits that a driver can write while nothing is set up.
    private static readonly (int Offset, int Width, ulong Writable)[] Common =
    [
        (device_feature_select, 4, uint.MaxValue), (device_feature, 4, 0), (driver_feature_select, 4, uint.MaxValue), (driver_feature, 4, uint.MaxValue),
        (config_msix_vector, 2, 0), (num_queues, 2, 0), (device_status, 1, 0), (config_generation, 1, 0), (queue_select, 2, 0xFFFF),
        (queue_size, 2, 0xFFFF), (queue_msix_vector, 2, 0), (queue_enable, 2, 0), (queue_notify_off, 2, 0), (queue_desc, 8, ulong.MaxValue),
        (queue_driver, 8, ulong.MaxValue), (queue_device, 8, ulong.MaxValue), (queue_notify_data, 2, 0), (queue_reset, 2, 0), (admin_queue_index, 2, 0), (admin_queue_num, 2, 0),
    ];

    [Fact]
    public void Every_register_is_written_at_its_own_width_only_and_read_at_any()
    {
        using var card = VirtioFunctionTests.Disk(out _);
        foreach (var (offset, width, writable) in Common)
        {
            foreach (var size in (ReadOnlySpan<int>)[1, 2, 4, 8])
            {
                for (var at = offset; at < offset + width; at++)
                {
                    card.Function.Reset();
                    var before = card.Bar(4, 0, 64);
                    var value = new byte[size];
                    // Not 0, which resets, and no status that a driver may set at first.
                    Array.Fill(value, (byte)0x54);
                    card.Function.WriteBar(4, (ulong)at, value);
                    var after = card.Bar(4, 0, 64);
                    var isWhole = at == offset && size == width;
                    // 64-bit registers have two halves (4.1.3.1).
                    var isHalf = width == 8 && size == 4 && (at - offset) % 4 == 0;
                    if ((isWhole || isHalf) && writable != 0)
                        value.AsSpan().CopyTo(before.AsSpan(at));
                    if (isWhole && offset == device_feature_select)
                        before.AsSpan(device_feature, 4).Clear();
                    // Word 0x54545454 of the driver's features is none.
                    if (isWhole && offset == driver_feature_select)
                        before.AsSpan(driver_feature, 4).Clear();
                    // There is no queue 0x5454.
                    if (isWhole && offset == queue_select)
                    {
                        value.AsSpan().CopyTo(before.AsSpan(at));
                        before.AsSpan(queue_size).Clear();
                    }

                    Assert.True(before.AsSpan().SequenceEqual(after), $"register 0x{offset:x}, {size} bytes at 0x{at:x}");
                    for (var i = 0; i + size <= 64; i++)
                        Assert.Equal(after[i..(i + size)], card.Bar(4, (ulong)i, size));
                }
            }
        }
    }

    [Fact]
    public void What_is_no_register_reads_0_and_swallows_writes()
    {
        using var card = VirtioFunctionTests.Disk(out _);
        foreach (var offset in (ReadOnlySpan<int>)[64, 0x800, 0xFFC, 0x1001, 0x1004, 0x2000 + 96, 0x3000, 0x3008, 0x3FFC])
        {
            card.Function.WriteBar(4, (ulong)offset, [1, 2, 3, 4]);
            Assert.Equal(new byte[4], card.Bar(4, (ulong)offset, 4));
        }

        // A copy of all is made of the same bytes.
        var all = card.Bar(4, 0, 0x4000);
        Assert.Equal(card.Bar(4, 0, 64), all[..64]);
        Assert.Equal(card.Bar(4, 0x2000, 96), all[0x2000..0x2060]);
        // The upper half of BAR 1 is pending bits, and what is neither is nothing.
        Assert.Equal(new byte[8], card.Bar(1, 0x400, 8));
    }

    [Fact]
    public void Status_goes_as_the_model_says_in_every_order()
    {
        byte[] bits = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, SUSPEND, FAILED];
        var random = new Random(11);
        for (var round = 0; round < 600; round++)
        {
            using var card = new VirtioCard(new VirtioRngDevice("rng"));
            var takesVersion = round % 3 != 0;
            var suspends = takesVersion && round % 2 == 0;
            if (takesVersion)
                card.Driver.TrySetDriverFeatures(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, suspends ? VirtioFeatures.VIRTIO_F_SUSPEND : VirtioFeatures.VIRTIO_F_VERSION_1), out _);
            byte model = 0;
            var taken = takesVersion;
            for (var step = 0; step < 24; step++)
            {
                var wanted = random.Next(8) switch
                {
                    0 => (byte)random.Next(256),
                    1 => (byte)0,
                    _ => (byte)(model | bits[random.Next(bits.Length)]),
                };
                card.Registers.Write(device_status, [wanted]);
                model = Next(model, wanted, suspends, ref taken);
                Assert.Equal(model, card.Driver.Status);
            }
        }
    }

    [Fact]
    public void A_hundred_thousand_accesses_of_any_kind_are_answered()
    {
        var random = new Random(20261129);
        using var medium = new MemoryBackend(1 << 20);
        VirtioDevice[] devices =
        [
            new VirtioBlkDevice("disk", medium, "serial", queueCount: 3), new VirtioConsoleDevice("console"), new VirtioRngDevice("rng"),
            new VirtioBlkDevice("old", medium, "serial"), new VirtioConsoleDevice("oldconsole"),
        ];
        var cards = devices.Select((device, i) => new VirtioCard(device, new VirtioFunctionOptions { IsTransitional = i >= 3, HasNotificationData = i == 1 })).ToArray();
        try
        {
            var bytes = new byte[8];
            for (var i = 0; i < 100_000; i++)
            {
                var card = cards[random.Next(cards.Length)];
                var size = 1 << random.Next(4);
                var (bar, offset) = Anywhere(card, size, random);
                random.NextBytes(bytes);
                // Small numbers are those that mean something.
                if (random.Next(2) == 0)
                    bytes.AsSpan(1).Clear();
                if (random.Next(4) == 0)
                    bytes[0] = (byte)random.Next(16);
                switch (random.Next(20))
                {
                    case < 9:
                        card.Function.WriteBar(bar, offset, bytes.AsSpan(0, size));
                        break;
                    case < 18:
                        card.Function.ReadBar(bar, offset, bytes.AsSpan(0, size));
                        break;
                    case 18:
                        card.Function.ReadConfig(random.Next(0x40, 0x100 - 8), bytes.AsSpan(0, size));
                        break;
                    default:
                        card.Function.WriteConfig(random.Next(0xE8, 0x100 - size), bytes.AsSpan(0, size));
                        break;
                }
            }

            foreach (var card in cards)
            {
                // None of them stands in error: registers of a failed model read as all ones.
                Assert.NotEqual(0xFFFF, card.Registers.ReadUInt16(num_queues));
                card.Function.Reset();
                card.SetCommand(PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
                card.Start();
                Assert.Equal(VirtioCard.Running, card.Driver.Status);
            }
        }
        finally
        {
            foreach (var card in cards)
                card.Dispose();
        }
    }

    [Fact]
    public async Task Reset_at_any_moment_ends_the_traffic_and_the_next_driver_finds_a_whole_device()
    {
        using var card = VirtioFunctionTests.Disk(out var medium);
        var random = new Random(5);
        for (var round = 0; round < 60; round++)
        {
            card.Start(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX));
            var more = true;
            var traffic = Task.Run(() =>
            {
                var n = 0;
                while (Volatile.Read(ref more) && n++ < 10_000)
                {
                    var queue = n & 1;
                    while (card.Rings[queue].TryTakeUsed(out _, out _, out _))
                    {
                    }

                    if (card.Rings[queue].Add(VirtioFunctionTests.Header(card, queue, (ulong)(n % 8))) < 0)
                        continue;
                    card.Rings[queue].Publish();
                    card.Registers.Notify(queue);
                }
            });
            Thread.SpinWait(random.Next(20_000));
            switch (round % 3)
            {
                case 0:
                    Assert.True(card.Driver.TryReset(out _));
                    break;
                case 1:
                    card.Function.Reset();
                    card.SetCommand(PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
                    break;
                default:
                    card.Function.Unplug();
                    card.Function.Plug(card.Slot);
                    card.Driver.TryReset(out _);
                    break;
            }

            // Nothing is written to the rings any more.
            var used = new byte[0x2000];
            card.Slot.Memory.Read(0, used);
            Volatile.Write(ref more, false);
            await traffic;
            Assert.Equal(0, card.Driver.Status);
        }

        card.Start();
        VirtioFunctionTests.ReadSector(card, 1, 5, out var bytes);
        Assert.Equal(VirtioFunctionTests.Sector(medium, 5), bytes);
    }

    private static (int Bar, ulong Offset) Anywhere(VirtioCard card, int size, Random random)
    {
        var bar = random.Next(8) switch { 0 => 1, 1 => 0, _ => 4 };
        var length = (int)card.Function.GetBar(bar).Size;
        if (length == 0)
            (bar, length) = (4, 0x4000);
        var offset = bar == 4 && random.Next(2) == 0 ? random.Next(64) : bar == 4 && random.Next(3) == 0 ? 0x1000 * random.Next(4) : random.Next(length);
        return (bar, (ulong)Math.Min(offset, length - size));
    }

    // Written from the text of the standard, not from the code: 2.1, 3.1.1, 6.1; of VIRTIO 1.4, 3.4.
    private static byte Next(byte status, byte wanted, bool canSuspend, ref bool version)
    {
        if (wanted == 0)
        {
            version = false;
            return 0;
        }

        if ((status & SUSPEND) != 0)
        {
            // All bits but SUSPEND stay written, and DRIVER_OK has it go on.
            if ((wanted & 32) != 0 || (status & ~wanted & ~SUSPEND) != 0 || (wanted & (SUSPEND | DRIVER_OK)) == 0)
                return status;
            return (wanted & DRIVER_OK) != 0 ? (byte)(wanted & ~(SUSPEND | DEVICE_NEEDS_RESET)) : (byte)(wanted & ~DEVICE_NEEDS_RESET);
        }

        var asks = (wanted & SUSPEND) != 0;
        wanted &= unchecked((byte)~SUSPEND);
        var next = Next(status, wanted, ref version);
        // With DRIVER_OK set, a write that is not taken is one that takes a bit back, or has one that there is not.
        if (!asks || !canSuspend || !version || (status & wanted & DRIVER_OK) == 0 || (wanted & 32) != 0 || (status & ~wanted & ~DEVICE_NEEDS_RESET) != 0)
            return next;
        return (byte)((next & ~DRIVER_OK) | SUSPEND);
    }

    private static byte Next(byte status, byte wanted, ref bool version)
    {
        if (wanted == 0)
            return status;
        if ((wanted & FEATURES_OK) != 0 && (status & FEATURES_OK) == 0 && !version)
            wanted &= unchecked((byte)~FEATURES_OK);
        const byte Own = DEVICE_NEEDS_RESET;
        const byte Defined = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED | Own;
        if ((wanted & ~Defined) != 0 || (status & ~wanted & ~Own) != 0)
            return status;
        bool Comes(byte bit) => (wanted & bit) != 0 && (status & bit) == 0;
        bool Is(byte bit) => (wanted & bit) == bit;
        if (Comes(DRIVER) && !Is(ACKNOWLEDGE))
            return status;
        if (Comes(FEATURES_OK) && !Is(ACKNOWLEDGE | DRIVER))
            return status;
        if (Comes(DRIVER_OK) && (!Is(ACKNOWLEDGE | DRIVER) || (status & FEATURES_OK) == 0))
            return status;
        return (byte)(status | (wanted & ~Own));
    }
}
