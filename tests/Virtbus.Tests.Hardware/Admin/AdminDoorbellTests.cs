using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Tests.Hardware.Virtio;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.VirtioLegacyConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>Eventfds that stand for notifications of drivers from before version 1.0.</summary>
public sealed class AdminDoorbellTests
{
    private const uint FirstPage = (uint)(FunctionSlot.MemoryAddress >> 12);

    [Fact]
    public void Each_number_at_the_place_of_old_drivers_has_a_doorbell_and_nothing_else_there()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var function = rig.Vf(0).Function;
        var info = LegacyNotifyInfo.Read(rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, AdminRig.Members, 1, [], 64));
        var old = new PciDoorbell(info.Bar, info.Offset, 2, 0);
        Assert.Equal([new(4, 0x3000, 2), new(4, 0x3004, 2), old, old with { Match = 1 }], function.Doorbells);
        using var signal = new EventFd();
        foreach (var other in new[] { old with { Match = 2 }, old with { Match = ulong.MaxValue }, old with { Match = null }, old with { Size = 4 }, old with { Offset = 0x3000 }, old with { Bar = 0 } })
        {
            Assert.False(function.TryAttachDoorbell(other, signal, out var fault));
            Assert.Equal((other, Errno.ENOENT), (other, fault.Errno));
        }

        // The physical function has no such place.
        Assert.DoesNotContain(rig.Physical.Doorbells, static d => d.Match is not null);
        using var transitional = VirtioFunctionTests.Disk(out _, new VirtioFunctionOptions { IsTransitional = true });
        Assert.Equal([new(0, VIRTIO_PCI_QUEUE_NOTIFY, 2, 0), new(0, VIRTIO_PCI_QUEUE_NOTIFY, 2, 1)], transitional.Function.Doorbells.Where(static d => d.Match is not null));
    }

    [Fact]
    public void Signal_does_what_the_write_does_before_the_driver_is_ready_and_after()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var vf = rig.Vf(0);
        using var first = Attach(vf, 0);
        using var second = Attach(vf, 1);
        for (var boot = 0; boot < 3; boot++)
        {
            // Nobody's: there is no ring.
            first.Signal();
            SetUp(rig);
            // Drivers of the time may use a queue before they say that they are ready.
            for (ulong sector = 1; sector < 4; sector++)
            {
                if (sector == 3)
                    Write(rig, VIRTIO_PCI_STATUS, [ACKNOWLEDGE | DRIVER | DRIVER_OK]);
                if (sector > 1)
                    AwaitSleep(vf);
                var used = vf.OfferLegacySector(sector);
                first.Signal();
                Assert.Equal(AdminVf.Sector((int)sector), vf.AwaitLegacySector(used));
            }
        }

        // The number is what counts: this is of a queue without a ring.
        AwaitSleep(vf);
        var last = vf.OfferLegacySector(4);
        second.Signal();
        Assert.True(vf.Function.TryAttachDoorbell(Old(0), null, out _));
        Assert.Equal(AdminVf.Sector(4), vf.AwaitLegacySector(last));
        AwaitSleep(vf);
        last = vf.OfferLegacySector(5);
        vf.Function.WriteBar(4, Old(0).Offset, [0, 0]);
        Assert.Equal(AdminVf.Sector(5), vf.AwaitLegacySector(last));
    }

    [Fact]
    public void Modern_driver_s_own_doorbell_goes_on_beside_it()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var vf = rig.Vf(0);
        using var old = Attach(vf, 0);
        using var modern = new EventFd();
        Assert.True(vf.Function.TryAttachDoorbell(vf.Function.Doorbells[0], modern, out _));
        SetUp(rig, isReady: true);
        var used = vf.OfferLegacySector(1);
        old.Signal();
        Assert.Equal(AdminVf.Sector(1), vf.AwaitLegacySector(used));
        vf.Start();
        for (var round = 0; round < 3; round++)
        {
            vf.OfferSector(2, isNotified: false);
            modern.Signal();
            Assert.Equal(AdminVf.Sector(2), vf.AwaitSector());
        }
    }

    [Fact]
    public void Signal_to_a_function_that_stands_still_counts_when_it_goes_on()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var vf = rig.Vf(0);
        using var signal = Attach(vf, 0);
        SetUp(rig, isReady: true);
        for (ulong sector = 1; sector < 3; sector++)
        {
            rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, AdminRig.Members, 1, [1]);
            var used = vf.OfferLegacySector(sector);
            signal.Signal();
            Assert.NotEqual(AdminVf.Sector((int)sector), vf.Content());
            rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, AdminRig.Members, 1, [0]);
            Assert.Equal(AdminVf.Sector((int)sector), vf.AwaitLegacySector(used));
        }
    }

    [Theory]
    [InlineData("replaced")]
    [InlineData("taken off")]
    [InlineData("unplugged")]
    public void Eventfd_is_held_no_longer_than_it_stands(string way)
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var vf = rig.Vf(0);
        using var signal = Attach(vf, 0);
        using var other = new EventFd();
        Assert.True(Holders(signal) > 1);
        if (way == "unplugged")
            rig.Enable(0);
        else
            Assert.True(vf.Function.TryAttachDoorbell(Old(0), way == "replaced" ? other : null, out _));
        Assert.Equal(1, Holders(signal));

        static int Holders(EventFd signal)
        {
            var id = Id(signal.Descriptor.DangerousGetHandle().ToString(System.Globalization.CultureInfo.InvariantCulture));
            return Directory.EnumerateFiles("/proc/self/fdinfo").Count(file => Id(Path.GetFileName(file)) == id);
        }

        static string? Id(string descriptor)
        {
            try
            {
                return File.ReadLines($"/proc/self/fdinfo/{descriptor}").FirstOrDefault(static line => line.StartsWith("eventfd-id:", StringComparison.Ordinal));
            }
            catch (IOException)
            {
                // It was closed meanwhile.
                return null;
            }
        }
    }

    [Fact]
    public void What_was_signalled_before_a_reset_is_nobody_s()
    {
        var told = new List<int>();
        using var device = new VirtioRngDevice("rng");
        var place = new PciDoorbell(4, 0x3FFC, 2);
        VirtioDoorbells doorbells = null!;
        doorbells = new VirtioDoorbells(device, place, (watch, queue) =>
        {
            lock (told)
            {
                if (doorbells.IsCurrent(watch))
                    told.Add(queue);
            }
        });
        using var signal = new EventFd();
        for (var round = 0; round < 20; round++)
        {
            lock (told)
            {
                doorbells.BeginOld();
                doorbells.Set(0, isOld: true, signal);
                // No queue runs that would take it.
                signal.Signal();
                doorbells.EndOld();
                Assert.False(signal.TryRead(out _));
                // Now somebody listens, and may have heard it before the next reset, to tell of it too late.
                signal.Signal();
                doorbells.EndOld();
            }

            signal.Signal();
            Deadline.Until(
                () =>
                {
                    lock (told)
                        return told.Count > 0;
                },
                "a signal after the reset");
            lock (told)
            {
                Assert.Equal([0], told);
                told.Clear();
            }
        }

        lock (told)
            doorbells.Clear(tells: true);
    }

    private static PciDoorbell Old(ulong queue) => new(4, 0x3FFC, 2, queue);

    private static EventFd Attach(AdminVf vf, ulong queue)
    {
        var signal = new EventFd();
        Assert.True(vf.Function.TryAttachDoorbell(Old(queue), signal, out var fault), fault.Message);
        return signal;
    }

    // A ring for queue 0.
    private static void SetUp(AdminRig rig, bool isReady = false)
    {
        Write(rig, VIRTIO_PCI_STATUS, [0]);
        Write(rig, VIRTIO_PCI_STATUS, [ACKNOWLEDGE | DRIVER]);
        Write(rig, VIRTIO_PCI_QUEUE_SEL, [0, 0]);
        rig.Vf(0).Slot.Memory.Write(0, new byte[0x8000]);
        Write(rig, VIRTIO_PCI_QUEUE_PFN, BitConverter.GetBytes(FirstPage));
        if (isReady)
            Write(rig, VIRTIO_PCI_STATUS, [ACKNOWLEDGE | DRIVER | DRIVER_OK]);
    }

    // The queue asks for notifications (VRING_USED_F_NO_NOTIFY is clear). It looks once more then, so that it sleeps is likely and no more.
    private static void AwaitSleep(AdminVf vf) => Deadline.Until(
        () =>
        {
            Span<byte> flags = stackalloc byte[2];
            vf.Slot.Memory.Read(0x5000, flags);
            return flags[0] == 0;
        },
        "sleep of the queue");

    private static void Write(AdminRig rig, int offset, byte[] value) =>
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, AdminRig.Members, 1, [(byte)offset, 0, 0, 0, 0, 0, 0, 0, .. value]);
}
