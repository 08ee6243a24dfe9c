using Virtbus.Drivers.VfioPci;
using Virtbus.Hardware.Probe;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>Interrupts of a function on a user's eventfds (section 7 of the vfio-user facts, 6.2 and 7.2 of the semantics).</summary>
public sealed class VfioPciInterruptTests
{
    private const ulong Table = 0x2000, Pending = 0x3000;
    private const uint Intx = 0, Msi = 1, MsiX = 2, Err = 3, Req = 4;
    private const VfioIrqSetFlags Trigger = VfioIrqSetFlags.ActionTrigger, Mask = VfioIrqSetFlags.ActionMask, Unmask = VfioIrqSetFlags.ActionUnmask;
    private const VfioIrqSetFlags None = VfioIrqSetFlags.DataNone, Bool = VfioIrqSetFlags.DataBool, Event = VfioIrqSetFlags.DataEventFd;

    [Fact]
    public async Task Indexes_have_counts_and_flags_of_the_function()
    {
        using var user = await OpenAsync();
        VfioIrqInfo[] expected =
        [
            new(VfioIrqFlags.EventFd | VfioIrqFlags.Maskable | VfioIrqFlags.AutoMasked, 1),
            new(VfioIrqFlags.EventFd | VfioIrqFlags.NoResize, 8),
            new(VfioIrqFlags.EventFd, 8),
            new(VfioIrqFlags.EventFd | VfioIrqFlags.NoResize, 1),
            new(VfioIrqFlags.EventFd | VfioIrqFlags.NoResize, 1),
        ];
        for (uint i = 0; i < 5; i++)
        {
            Assert.True(user.Handle.TryGetIrqInfo(i, out var info, out _));
            Assert.Equal(expected[i], info);
        }
    }

    [Fact]
    public async Task Line_fires_once_until_it_is_unmasked_and_again_while_it_is_asserted()
    {
        using var user = await OpenAsync();
        using var line = new EventFd();
        user.SetTrigger(Intx, 0, line);
        user.Write32(0, ScratchRegister.InterruptEnable, 7);
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal(1ul, PciUser.Count(line));
        // The status bit tells the guest's handler that it is this function's.
        Assert.Equal(8, user.Config16(6) & 8);
        user.Write32(0, ScratchRegister.Doorbell, 1);
        Assert.Equal(0ul, PciUser.Count(line));
        // Unmasked without being quieted: level triggered.
        user.Set(None | Unmask, Intx, 0, 1);
        Assert.Equal(1ul, PciUser.Count(line));
        user.Write32(0, ScratchRegister.InterruptCause, 7);
        Assert.Equal(0, user.Config16(6) & 8);
        user.Set(None | Unmask, Intx, 0, 1);
        Assert.Equal(0ul, PciUser.Count(line));
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal(1ul, PciUser.Count(line));
    }

    [Fact]
    public void Unmasking_by_an_eventfd_waits_for_the_function_on_no_thread_that_others_share()
    {
        using var signal = new EventFd();
        using var unmasked = new ManualResetEventSlim();
        var isShared = true;
        var watch = new UnmaskWatch(signal.Duplicate(), "test", () =>
        {
            isShared = PollThread.IsSharedCurrent;
            unmasked.Set();
        });
        signal.Signal();
        Assert.True(unmasked.Wait(TimeSpan.FromSeconds(30)));
        watch.Dispose();
        Assert.False(isShared);
    }

    [Fact]
    public async Task Line_is_masked_and_unmasked_by_the_user_and_by_the_command_register()
    {
        using var user = await OpenAsync();
        using var line = new EventFd();
        user.SetTrigger(Intx, 0, line);
        user.Write32(0, ScratchRegister.InterruptEnable, 7);
        user.Set(None | Mask, Intx, 0, 1);
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal(0ul, PciUser.Count(line));
        // A byte of 0 leaves it as it is.
        Assert.True(user.TrySet(Bool | Unmask, Intx, 0, 1, null, out _, [0]));
        Assert.Equal(0ul, PciUser.Count(line));
        Assert.True(user.TrySet(Bool | Unmask, Intx, 0, 1, null, out _, [1]));
        Assert.Equal(1ul, PciUser.Count(line));

        user.Config16(4, 0x403);
        user.Set(None | Unmask, Intx, 0, 1);
        Assert.Equal(0ul, PciUser.Count(line));
        user.Config16(4, 0x003);
        Assert.Equal(1ul, PciUser.Count(line));
        user.Write32(0, ScratchRegister.InterruptCause, 7);
    }

    [Fact]
    public async Task Interrupt_disable_that_was_written_before_holds_the_line_when_it_is_enabled()
    {
        using var user = await OpenAsync();
        using var line = new EventFd();
        user.Config16(4, 0x403);
        user.SetTrigger(Intx, 0, line);
        user.Write32(0, ScratchRegister.InterruptEnable, 7);
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal(0ul, PciUser.Count(line));
        user.Config16(4, 0x003);
        Assert.Equal(1ul, PciUser.Count(line));
    }

    [Fact]
    public async Task Eventfd_unmasks_the_line()
    {
        using var user = await OpenAsync();
        using var line = new EventFd();
        using var unmask = new EventFd();
        user.SetTrigger(Intx, 0, line);
        user.Set(Event | Unmask, Intx, 0, 1, unmask);
        user.Write32(0, ScratchRegister.InterruptEnable, 7);
        user.Write32(0, ScratchRegister.Raise, 0);
        for (var i = 0; i < 3; i++)
        {
            Assert.True(PciUser.Arrives(line));
            Assert.Equal(0ul, PciUser.Count(line));
            unmask.Signal();
        }
        Assert.True(PciUser.Arrives(line));
        // Taken away, a signal of it means nothing; the user can still do it itself.
        user.Set(Event | Unmask, Intx, 0, 1, [null]);
        unmask.Signal();
        user.Set(None | Unmask, Intx, 0, 1);
        Assert.Equal(1ul, PciUser.Count(line));
        Assert.Equal(1ul, PciUser.Count(unmask));
        Assert.False(user.TrySet(Event | Mask, Intx, 0, 1, [unmask], out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public async Task Vectors_of_MSI_X_are_bound_one_by_one_as_a_guest_unmasks_them()
    {
        using var user = await OpenAsync();
        // The order of QEMU: enabled by an empty vector 0, then an eventfd for each.
        user.DisableIrqs(Intx);
        user.Set(Event | Trigger, MsiX, 0, 1);
        var signals = new EventFd[8];
        for (uint i = 0; i < 8; i++)
        {
            signals[i] = new EventFd();
            user.SetTrigger(MsiX, i, signals[i]);
        }
        user.Config16(4, 6);
        for (uint i = 0; i < 8; i++)
        {
            user.Write32(0, ScratchRegister.Raise, i);
            Assert.Equal(1ul, PciUser.Count(signals[i]));
        }
        // One is taken away and given back; what comes meanwhile comes then.
        user.Set(Event | Trigger, MsiX, 3, 1, [null]);
        user.Write32(0, ScratchRegister.Raise, 3);
        Assert.Equal(0ul, PciUser.Count(signals[3]));
        user.SetTrigger(MsiX, 3, signals[3]);
        Assert.Equal(1ul, PciUser.Count(signals[3]));
        // A range at once, then all of it away by a request without eventfds.
        user.SetTrigger(MsiX, 4, signals[0], signals[1]);
        user.Write32(0, ScratchRegister.Raise, 5);
        Assert.Equal(1ul, PciUser.Count(signals[1]));
        user.Set(Event | Trigger, MsiX, 0, 8);
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal(0ul, PciUser.Count(signals[0]));
        user.DisableIrqs(MsiX);
        using var line = new EventFd();
        user.SetTrigger(Intx, 0, line);
        foreach (var signal in signals)
            signal.Dispose();
    }

    [Fact]
    public async Task Messages_are_set_up_even_while_the_user_has_memory_disabled()
    {
        using var user = await OpenAsync();
        using var signal = new EventFd();
        user.Config16(4, 4);
        user.SetTrigger(MsiX, 0, signal);
        Assert.Equal(4, user.Config16(4));
        Assert.Equal(Errno.EIO, user.ErrorOfRead(0, 0, 4));
        user.Config16(4, 6);
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal(1ul, PciUser.Count(signal));
    }

    [Fact]
    public async Task Vectors_of_MSI_come_at_once_and_grow_when_they_come_in_parts()
    {
        using var user = await OpenAsync();
        user.Config16(4, 6);
        EventFd[] signals = [new(), new(), new(), new()];
        user.SetTrigger(Msi, 0, signals[0], signals[1]);
        user.Write32(0, ScratchRegister.Raise, 1);
        Assert.Equal(1ul, PciUser.Count(signals[1]));
        user.SetTrigger(Msi, 2, signals[2], signals[3]);
        for (uint i = 0; i < 4; i++)
        {
            user.Write32(0, ScratchRegister.Raise, i);
            Assert.Equal(1ul, PciUser.Count(signals[i]));
        }
        foreach (var signal in signals)
            signal.Dispose();
    }

    [Fact]
    public async Task Mask_bits_of_the_MSI_capability_hold_messages_back()
    {
        using var user = await OpenAsync();
        user.Config16(4, 6);
        using var signal = new EventFd();
        user.SetTrigger(Msi, 0, signal);
        var mask = user.Capability(5) + 16;
        user.Config32(mask, 1);
        Assert.Equal(1u, user.Config32(mask));
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal(0ul, PciUser.Count(signal));
        user.Config32(mask, 0);
        Assert.Equal(1ul, PciUser.Count(signal));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Vector_of_MSI_X_that_its_user_masks_is_pending_until_it_is_unmasked(bool byFunction)
    {
        using var user = await OpenAsync();
        user.Config16(4, 6);
        using EventFd one = new(), two = new();
        user.SetTrigger(MsiX, 1, one, two);
        Mask(true);
        user.Write32(0, ScratchRegister.Raise, 1);
        user.Write32(0, ScratchRegister.Raise, 1);
        user.Write32(0, ScratchRegister.Raise, 2);
        Assert.Equal((0ul, byFunction ? 0ul : 1ul), (PciUser.Count(one), PciUser.Count(two)));
        Assert.Equal(byFunction ? 6u : 2u, user.Read32(0, Pending));
        // Another eventfd is set up while it is masked.
        user.SetTrigger(MsiX, 1, two);
        Assert.Equal(0ul, PciUser.Count(two));
        Mask(false);
        Assert.Equal((0ul, byFunction ? 2ul : 1ul), (PciUser.Count(one), PciUser.Count(two)));
        Assert.Equal(0u, user.Read32(0, Pending));
        // Masked before it is set up at all.
        user.DisableIrqs(MsiX);
        Mask(true);
        user.SetTrigger(MsiX, 0, one, two);
        user.Write32(0, ScratchRegister.Raise, 1);
        Assert.Equal(0ul, PciUser.Count(two));
        Mask(false);
        Assert.Equal(1ul, PciUser.Count(two));

        void Mask(bool masked)
        {
            if (byFunction)
                user.Config16(user.Capability(0x11) + 2, masked ? 0xC000 : 0x8000);
            else
                user.Write32(0, Table + 16 + 12, masked ? 1u : 0);
        }
    }

    [Fact]
    public async Task Function_mask_counts_while_the_user_has_memory_disabled()
    {
        using var user = await OpenAsync();
        using var signal = new EventFd();
        user.SetTrigger(MsiX, 0, signal);
        var flags = user.Capability(0x11) + 2;
        user.Config16(4, 4);
        user.Config16(flags, 0xC000);
        user.Config16(4, 6);
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal((0ul, 1u), (PciUser.Count(signal), user.Read32(0, Pending)));
        user.Config16(4, 4);
        user.Config16(flags, 0x8000);
        Assert.Equal(1ul, PciUser.Count(signal));
        user.Config16(4, 6);
        Assert.Equal(0u, user.Read32(0, Pending));
    }

    /// <summary>A VMM that resets its machine forgets what it masked, and says nothing of it to the device.</summary>
    [Theory]
    [InlineData(MsiX)]
    [InlineData(Msi)]
    public async Task Reset_opens_what_its_user_had_masked(uint index)
    {
        using var user = await OpenAsync();
        user.Config16(4, 6);
        using var signal = new EventFd();
        user.SetTrigger(index, 0, signal);
        int flags = user.Capability(0x11) + 2, mask = user.Capability(5) + 16;
        user.Config16(flags, 0xC000);
        user.Config32(mask, 1);
        user.Write32(0, Table + 12, 1);
        Assert.True(user.Handle.TryReset(out _));
        Assert.Equal((0x8000, 0u, 0u), (user.Config16(flags) & 0xC000, user.Config32(mask), user.Read32(0, Table + 12)));
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal(1ul, PciUser.Count(signal));
    }

    [Theory]
    [InlineData(Intx, 1u)]
    [InlineData(Msi, 4u)]
    [InlineData(MsiX, 8u)]
    [InlineData(Err, 1u)]
    [InlineData(Req, 1u)]
    public async Task User_can_fire_its_own_vectors(uint index, uint count)
    {
        using var user = await OpenAsync();
        EventFd[] signals = [.. Enumerable.Range(0, (int)count).Select(_ => new EventFd())];
        if (index < Err)
        {
            Assert.False(user.TrySet(None | Trigger, index, 0, count, null, out var fault));
            Assert.Equal(Errno.EINVAL, fault.Errno);
        }
        user.SetTrigger(index, 0, signals);
        user.Set(None | Trigger, index, 0, count);
        Assert.All(signals, s => Assert.Equal(1ul, PciUser.Count(s)));
        byte[] bools = [.. Enumerable.Range(0, (int)count).Select(i => (byte)(i % 2))];
        Assert.True(user.TrySet(Bool | Trigger, index, 0, count, null, out _, bools));
        Assert.Equal(bools.Select(b => (ulong)b), signals.Select(PciUser.Count));
        // Disabled by nothing; a second time is no error, and then none fires.
        user.DisableIrqs(index);
        user.DisableIrqs(index);
        Assert.Equal(index >= Err, user.TrySet(None | Trigger, index, 0, count, null, out _));
        Assert.All(signals, s => Assert.Equal(0ul, PciUser.Count(s)));
        foreach (var signal in signals)
            signal.Dispose();
    }

    [Theory]
    [InlineData(Intx, Msi)]
    [InlineData(Intx, MsiX)]
    [InlineData(Msi, Intx)]
    [InlineData(Msi, MsiX)]
    [InlineData(MsiX, Intx)]
    [InlineData(MsiX, Msi)]
    public async Task One_way_to_interrupt_at_a_time(uint first, uint second)
    {
        using var user = await OpenAsync();
        using var signal = new EventFd();
        user.SetTrigger(first, 0, signal);
        Assert.False(user.TrySet(Event | Trigger, second, 0, 1, [signal], out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        user.DisableIrqs(second);
        user.Set(None | Trigger, first, 0, 1);
        Assert.Equal(1ul, PciUser.Count(signal));
        user.DisableIrqs(first);
        user.SetTrigger(second, 0, signal);
    }

    [Theory]
    [InlineData(Msi)]
    [InlineData(MsiX)]
    [InlineData(Err)]
    [InlineData(Req)]
    public async Task Only_the_line_is_masked(uint index)
    {
        using var user = await OpenAsync();
        using var signal = new EventFd();
        user.SetTrigger(index, 0, signal);
        foreach (var action in new[] { Mask, Unmask })
        {
            Assert.False(user.TrySet(None | action, index, 0, 1, null, out var fault));
            Assert.Equal(Errno.EINVAL, fault.Errno);
        }
    }

    [Fact]
    public async Task Eventfd_is_the_users_and_may_be_closed_after_the_call()
    {
        using var user = await OpenAsync();
        user.Config16(4, 6);
        using var kept = new EventFd();
        using (var given = kept.Duplicate())
            user.SetTrigger(MsiX, 0, given);
        user.Write32(0, ScratchRegister.Raise, 0);
        Assert.Equal(1ul, PciUser.Count(kept));
    }

    [Fact]
    public async Task Interrupts_go_on_after_a_reset()
    {
        using var user = await OpenAsync();
        user.Config16(4, 6);
        using var signal = new EventFd();
        user.SetTrigger(MsiX, 2, signal);
        Assert.True(user.Handle.TryReset(out _));
        user.Write32(0, ScratchRegister.Raise, 2);
        Assert.Equal(1ul, PciUser.Count(signal));
    }

    [Fact]
    public async Task Nothing_is_signalled_after_close_whatever_thread_raises_it()
    {
        for (var round = 0; round < 20; round++)
        {
            var world = await VfioPciWorld.NewAsync();
            var function = new ScratchFunction();
            var device = await world.PlugAsync(function);
            var user = VfioPciWorld.Open(device);
            using var signal = new EventFd();
            user.Config16(4, 6);
            user.SetTrigger(MsiX, 0, signal);
            using var stop = new CancellationTokenSource();
            var raise = Task.Run(() =>
            {
                while (!stop.IsCancellationRequested)
                    function.WriteBar(0, ScratchRegister.Raise, new byte[4]);
            });
            Assert.True(PciUser.Arrives(signal));
            user.Dispose();
            PciUser.Count(signal);
            function.WriteBar(0, ScratchRegister.Raise, new byte[4]);
            Assert.Equal(0ul, PciUser.Count(signal));
            await stop.CancelAsync();
            await raise;
        }
    }

    [Fact]
    public async Task Eventfds_that_their_user_filled_and_made_blocking_hold_up_no_thread()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        var user = VfioPciWorld.Open(device);
        user.Config16(4, 6);
        await Task.Run(() =>
        {
            foreach (var index in new[] { Err, Req, Intx, Msi, MsiX })
            {
                using var filled = new EventFd();
                Assert.True(EventFd.TryAdopt(filled.Descriptor.Duplicate(), out var given, out _));
                using (given)
                    user.SetTrigger(index, 0, given);
                Blocking.Fill(filled);
                user.Set(None | Trigger, index, 0, 1);
                if (index is Err or Req)
                    continue;
                // By the function itself; the line twice, as it stays asserted.
                user.Write32(0, ScratchRegister.InterruptEnable, 7);
                user.Write32(0, ScratchRegister.Raise, 0);
                if (index == Intx)
                    user.Set(None | Unmask, index, 0, 1);
                Assert.Equal(ulong.MaxValue, PciUser.Count(filled));
                user.DisableIrqs(index);
            }
        }).In();
        // Asked by the eventfd, too.
        var unbind = world.UnbindAsync(device);
        user.Dispose();
        await unbind.In();
    }

    private static async Task<PciUser> OpenAsync()
    {
        var world = await VfioPciWorld.NewAsync();
        return VfioPciWorld.Open(await world.PlugAsync(new ScratchFunction()));
    }
}
