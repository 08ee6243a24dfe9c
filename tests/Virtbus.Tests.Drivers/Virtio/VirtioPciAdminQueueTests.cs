using Virtbus.Drivers.VirtioPci;
using Virtbus.Drivers.VirtioVfioPci;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Platform;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>Commands of the administration queue: what they look like, who gets which answer, and how each of them ends. VA-07.</summary>
public sealed class VirtioPciAdminQueueTests
{
    private const ushort Opcode = VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ;

    [Fact]
    public async Task Command_is_laid_out_as_the_standard_says_and_its_answer_comes_back()
    {
        using var hand = new AdminHand();
        var run = hand.GiveAsync(Opcode, 3, [9, 8, 7, 6, 5, 4, 3, 2], 4);
        var given = Assert.Single(hand.See(1));
        Assert.Equal((Opcode, (ushort)1, 3UL), (given.Command.Opcode, given.Command.GroupType, given.Command.MemberId));
        Assert.Equal([9, 8, 7, 6, 5, 4, 3, 2], given.Data);
        Assert.Equal(12, given.AnswerLength);
        hand.Answer(given, 0, 1, 2, 3, 4);
        var (isDone, fault, result, written) = await run.In();
        Assert.True(isDone);
        Assert.Equal((Fault.None, 4), (fault, written));
        Assert.Equal([1, 2, 3, 4], result);
    }

    [Fact]
    public async Task Several_commands_are_with_the_device_at_once_and_each_gets_its_own_answer()
    {
        using var hand = new AdminHand();
        var runs = Enumerable.Range(0, VirtioPciAdminQueue.MostCommands).Select(i => hand.GiveAsync(Opcode, (ulong)i, [(byte)i], 1)).ToArray();
        // The last ones first.
        foreach (var given in Enumerable.Reverse(hand.See(runs.Length)))
            hand.Answer(given, 0, (byte)(given.Command.MemberId + 100));
        for (var i = 0; i < runs.Length; i++)
            Assert.Equal([(byte)(i + 100)], (await runs[i].In()).Result);
    }

    [Fact]
    public async Task Command_beyond_those_that_there_is_room_for_waits_for_one_that_ends()
    {
        using var hand = new AdminHand(4);
        var runs = Enumerable.Range(0, 5).Select(_ => hand.GiveAsync(Opcode, 1, [], 1)).ToArray();
        for (var i = 0; i < runs.Length; i++)
        {
            var given = hand.See(1);
            Assert.True(given.Count <= 2, $"{given.Count} commands at once in 4 descriptors");
            hand.Answer(given[0]);
        }

        foreach (var run in runs)
            Assert.True((await run.In()).IsDone);
    }

    [Fact]
    public void Queue_without_room_for_one_command_is_refused() => Assert.Equal(Errno.EINVAL, Assert.Throws<VirtbusException>(static () => new AdminHand(1)).Errno);

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    [InlineData(8)]
    [InlineData(10)]
    public async Task What_an_answer_leaves_out_is_zero(int length)
    {
        using var hand = new AdminHand();
        // What was there before.
        var before = hand.GiveAsync(Opcode, 1, [], 4);
        hand.Answer(hand.See(1)[0], 0, 0xAA, 0xAA, 0xAA, 0xAA);
        await before.In();
        var run = hand.GiveAsync(Opcode, 1, [], 4);
        hand.AnswerRaw(hand.See(1)[0], new byte[] { 0, 0, 0, 0, 0, 0, 0, 0, 1, 2 }.AsSpan(0, length), (uint)length, hand.Look()[0].Head);
        hand.Queue.Interrupt();
        var (isDone, _, result, written) = await run.In();
        Assert.True(isDone);
        Assert.Equal(Math.Max(0, length - 8), written);
        Assert.Equal(length == 10 ? [1, 2, 0, 0] : [0, 0, 0, 0], result);
        // Nor is it what another one was answered, where the device says that it wrote and did not.
        run = hand.GiveAsync(Opcode, 1, [], 4);
        hand.AnswerRaw(hand.See(1)[0], [0, 0, 0, 0, 0, 0, 0, 0], 12, hand.Look()[0].Head);
        hand.Queue.Interrupt();
        Assert.Equal([0, 0, 0, 0], (await run.In()).Result);
    }

    [Theory]
    [InlineData(AdminStatus.VIRTIO_ADMIN_STATUS_ENXIO, Errno.ENXIO)]
    [InlineData(AdminStatus.VIRTIO_ADMIN_STATUS_ENOMEM, Errno.ENOMEM)]
    [InlineData(AdminStatus.VIRTIO_ADMIN_STATUS_EBUSY, Errno.EBUSY)]
    [InlineData(AdminStatus.VIRTIO_ADMIN_STATUS_EEXIST, Errno.EEXIST)]
    [InlineData(AdminStatus.VIRTIO_ADMIN_STATUS_EINVAL, Errno.EINVAL)]
    [InlineData(AdminStatus.VIRTIO_ADMIN_STATUS_ENOSPC, Errno.ENOSPC)]
    [InlineData(5, Errno.EINVAL)]
    [InlineData(1, Errno.EINVAL)]
    [InlineData(ushort.MaxValue, Errno.EINVAL)]
    public async Task Status_is_an_errno_and_one_that_is_reserved_is_EINVAL_with_no_result(ushort status, Errno errno)
    {
        using var hand = new AdminHand();
        var run = hand.GiveAsync(Opcode, 1, [], 2);
        hand.Answer(hand.See(1)[0], status, 1, 2);
        var (isDone, fault, result, written) = await run.In();
        Assert.False(isDone);
        Assert.Equal((errno, 0), (fault.Errno, written));
        Assert.Equal([0, 0], result);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(VirtioPciAdminQueue.MostTries - 1)]
    [InlineData(VirtioPciAdminQueue.MostTries)]
    [InlineData(int.MaxValue)]
    public async Task Command_that_is_wanted_again_is_given_again_so_many_times(int refusals)
    {
        using var hand = new AdminHand();
        var seen = 0;
        hand.AnswerAll(given => seen++ < refusals ? (AdminStatus.VIRTIO_ADMIN_STATUS_EAGAIN, []) : ((ushort)0, given.Data));
        var (isDone, fault, result, _) = await hand.GiveAsync(Opcode, 1, [5], 1).In();
        Assert.Equal(refusals < VirtioPciAdminQueue.MostTries, isDone);
        Assert.Equal(isDone ? Errno.None : Errno.EAGAIN, fault.Errno);
        Assert.Equal(isDone ? 5 : 0, result[0]);
        Assert.Equal(Math.Min(refusals + 1L, VirtioPciAdminQueue.MostTries), seen);
    }

    // Whoever waits for it waits for one command, not for as many as it is given.
    [Fact]
    public async Task Command_that_is_wanted_again_late_is_not_given_without_end()
    {
        using var hand = new AdminHand();
        var seen = 0;
        hand.AnswerAll(given =>
        {
            seen++;
            hand.Time.Advance(VirtioPciAdminQueue.Patience / 2);
            return (AdminStatus.VIRTIO_ADMIN_STATUS_EAGAIN, []);
        });
        var (isDone, fault, _, _) = await hand.GiveAsync(Opcode, 1, [], 1).In();
        Assert.Equal((false, Errno.EAGAIN, 2), (isDone, fault.Errno, seen));
        Assert.Empty(hand.Breaks);
    }

    // One queue is for all functions: as many commands as it takes, each about one whose user has it wait, are done before the last one's answer is late. A command
    // waits at most four times: for who holds the function still, for its accesses, for its queues, and for its accesses again.
    [Fact]
    public void Functions_that_keep_the_device_waiting_make_no_other_one_s_command_late() =>
        Assert.True(4 * VirtioPciAdminQueue.MostCommands * VirtioUnit.CommandPatience < VirtioPciAdminQueue.Patience);

    // A state that was saved can be loaded: that takes a command whose data have a header before it.
    [Fact]
    public void Largest_state_that_is_saved_fits_into_a_command() =>
        Assert.Equal(VirtioPciAdminQueue.MostBytes, VirtioMigration.MaxParts + ResourceObject.Size);

    [Fact]
    public async Task Long_command_and_long_answer_have_memory_of_their_own_which_goes_with_them()
    {
        using var hand = new AdminHand();
        var before = hand.Mapped;
        var data = new byte[100_000];
        new Random(1).NextBytes(data);
        var run = hand.GiveAsync(Opcode, 1, data, data.Length);
        var given = hand.See(1)[0];
        Assert.Equal(data, given.Data);
        Assert.True(hand.Mapped > before);
        hand.Answer(given, 0, data);
        Assert.Equal(data, (await run.In()).Result);
        Assert.Equal(before, hand.Mapped);
    }

    [Theory]
    [InlineData(VirtioPciAdminQueue.MostBytes + 1, 0)]
    [InlineData(0, VirtioPciAdminQueue.MostBytes + 1)]
    public async Task More_than_a_command_has_room_for_is_refused_and_never_given(int data, int result)
    {
        using var hand = new AdminHand();
        var answer = await hand.GiveAsync(Opcode, 1, new byte[data], result).In();
        Assert.Equal((false, Errno.EMSGSIZE), (answer.IsDone, answer.Fault.Errno));
        Assert.Empty(hand.Look());
    }

    [Fact]
    public async Task As_much_as_there_is_room_for_goes_both_ways()
    {
        using var hand = new AdminHand();
        hand.AnswerAll(static given => (0, given.Data));
        var data = new byte[VirtioPciAdminQueue.MostBytes];
        data[^1] = 7;
        Assert.Equal(data, (await hand.GiveAsync(Opcode, 1, data, data.Length).In()).Result);
    }

    [Fact]
    public async Task Device_that_does_not_answer_breaks_the_queue_and_keeps_the_memory_until_it_is_reset()
    {
        using var hand = new AdminHand();
        var empty = hand.Mapped;
        var late = hand.GiveAsync(Opcode, 1, new byte[1000], 4);
        var given = hand.See(1)[0];
        hand.Time.Advance(VirtioPciAdminQueue.Patience - TimeSpan.FromTicks(1));
        var other = hand.GiveAsync(Opcode, 2, [], 4);
        hand.See(2);
        Assert.False(late.IsCompleted);
        hand.Time.Advance(TimeSpan.FromTicks(1));
        Assert.Equal(Errno.ETIMEDOUT, (await late.In()).Fault.Errno);
        // With it go the others.
        Assert.Equal(Errno.EIO, (await other.In()).Fault.Errno);
        Assert.True(hand.Queue.IsBroken);
        Assert.Equal(Errno.ETIMEDOUT, Assert.Single(hand.Breaks).Errno);
        Assert.Equal(Errno.EIO, (await hand.GiveAsync(Opcode, 1, [], 4).In()).Fault.Errno);
        // What is late reaches memory that is nobody else's.
        Assert.True(hand.AnswerRaw(given, new byte[12], 12, given.Head));
        Assert.True(hand.Mapped > empty);
        hand.Dispose();
        Assert.Equal(0, hand.Mapped);
        Assert.False(hand.AnswerRaw(given, new byte[12], 12, given.Head));
        Assert.Equal(0, hand.Time.Timers);
    }

    [Fact]
    public async Task Time_of_a_command_begins_with_it_and_not_with_the_one_before()
    {
        using var hand = new AdminHand(2);
        for (var i = 0; i < 3; i++)
        {
            var run = hand.GiveAsync(Opcode, 1, [], 1);
            var given = hand.See(1)[0];
            hand.Time.Advance(VirtioPciAdminQueue.Patience - TimeSpan.FromSeconds(1));
            hand.Answer(given);
            Assert.True((await run.In()).IsDone);
        }

        Assert.Equal(0, hand.Time.Timers);
    }

    [Fact]
    public async Task Timer_that_runs_out_early_is_set_anew()
    {
        var time = new EarlyTime();
        using var hand = new AdminHand(2, time);
        var run = hand.GiveAsync(Opcode, 1, [], 1);
        var given = hand.See(1)[0];
        time.Fire(VirtioPciAdminQueue.Patience - TimeSpan.FromSeconds(1));
        Assert.Equal(TimeSpan.FromSeconds(1), Assert.Single(time.Due));
        hand.Answer(given);
        Assert.True((await run.In()).IsDone);
        var late = hand.GiveAsync(Opcode, 1, [], 1);
        hand.See(1);
        time.Fire(VirtioPciAdminQueue.Patience);
        Assert.Equal(Errno.ETIMEDOUT, (await late.In()).Fault.Errno);
    }

    [Fact]
    public async Task Reset_ends_every_command_with_EIO_and_takes_none_afterwards()
    {
        using var hand = new AdminHand(4);
        // Two are with the device, two wait for room, or begin only when it takes none.
        var runs = Enumerable.Range(0, 4).Select(i => hand.GiveAsync(Opcode, (ulong)i, new byte[300], 300)).ToArray();
        var given = hand.See(2);
        hand.Admin.Shut();
        Assert.Equal(Errno.EIO, (await hand.GiveAsync(Opcode, 1, [], 1).In()).Fault.Errno);
        // Those that it has are the device's until it is reset.
        Assert.All(given, one => Assert.False(runs[(int)one.Command.MemberId].IsCompleted));
        hand.Admin.EndAll();
        foreach (var run in runs)
        {
            var (isDone, fault, _, _) = await run.In();
            Assert.Equal((false, Errno.EIO), (isDone, fault.Errno));
        }

        Assert.True(hand.AnswerRaw(given[0], new byte[308], 308, given[0].Head));
        hand.Dispose();
        Assert.False(hand.AnswerRaw(given[1], new byte[308], 308, given[1].Head));
        Assert.Equal((0, 0), (hand.Mapped, hand.Time.Timers));
    }

    [Fact]
    public async Task Device_that_is_gone_ends_every_command_with_ENODEV_at_once()
    {
        using var hand = new AdminHand();
        var run = hand.GiveAsync(Opcode, 1, [], 1);
        hand.See(1);
        hand.Queue.Break(new Fault(Errno.ENODEV, "the device is gone"));
        Assert.Equal(Errno.ENODEV, (await run.In()).Fault.Errno);
        Assert.Equal(Errno.ENODEV, (await hand.GiveAsync(Opcode, 1, [], 1).In()).Fault.Errno);
    }

    [Theory]
    [InlineData(63u, 8u)]
    [InlineData(64u, 8u)]
    [InlineData(uint.MaxValue, 8u)]
    [InlineData(0u, 13u)]
    [InlineData(0u, uint.MaxValue)]
    public async Task Answer_that_names_none_or_is_longer_than_its_room_breaks_the_queue(uint head, uint written)
    {
        using var hand = new AdminHand();
        var run = hand.GiveAsync(Opcode, 1, [], 4);
        var given = hand.See(1)[0];
        Assert.Equal(0, given.Head);
        hand.AnswerRaw(given, new byte[12], written, head);
        hand.Queue.Interrupt();
        var answer = await run.In();
        Assert.True(answer.Written <= 4);
        // The ring may cut a length that is too long; a name that nobody has it can't.
        Assert.True(answer.IsDone ? head == 0 : answer.Fault.Errno == Errno.EIO && hand.Queue.IsBroken);
    }

    [Fact]
    public async Task Answer_that_comes_twice_is_nobodys()
    {
        using var hand = new AdminHand();
        var first = hand.GiveAsync(Opcode, 1, [], 1);
        var given = hand.See(1)[0];
        hand.Answer(given, 0, 1);
        Assert.Equal([1], (await first.In()).Result);
        hand.AnswerRaw(given, [0, 0, 0, 0, 0, 0, 0, 0, 2], 9, given.Head);
        var second = hand.GiveAsync(Opcode, 1, [], 1);
        // It found the second answer of the first one, and no command of that name, or its own by chance.
        hand.Queue.Interrupt();
        var answer = await second.In();
        Assert.True(answer.IsDone || (answer.Fault.Errno == Errno.EIO && hand.Queue.IsBroken));
        Assert.NotEqual<byte>(2, answer.Result[0]);
    }
}
