using Virtbus.Buses.Pci;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>Devices that answer late, short, wrong, twice or never, and resets at any moment, seeded: each command ends, and nothing is left behind. VA-07.</summary>
public sealed class VirtioPciAdminHostileTests
{
    private const int Answers = 100_000;
    private static readonly Errno[] Known =
    [
        Errno.EIO, Errno.ETIMEDOUT, Errno.EINVAL, Errno.EAGAIN, Errno.ENOMEM, Errno.EBUSY, Errno.ENXIO, Errno.EEXIST, Errno.ENOSPC, Errno.EOPNOTSUPP,
    ];

    [Fact]
    public async Task Mutated_answers_end_each_command_and_leave_nothing_behind()
    {
        await using var rig = await FabricRig.StartAsync();
        var owner = await PlugAsync(rig);
        var random = new Random(20_261_201);
        var (answers, broken) = (0, 0);
        var counts = new Counts();
        while (answers < Answers)
        {
            using var hand = new AdminHand();
            var script = new AdminScript();
            var administration = new VirtioPciAdministration(owner);
            owner.SetDriverData(administration);
            hand.OnNotify = () =>
            {
                foreach (var given in hand.Look())
                {
                    answers++;
                    AnswerWrong(hand, script, given, random);
                }
            };
            administration.Start(hand.Admin);
            var mine = new HashSet<(PciDevice, uint)>();
            for (var i = 0; i < 300 && !hand.Queue.IsBroken; i++)
                Run(owner.VirtualFunctions[random.Next(2)], random, mine, counts);
            broken += hand.Queue.IsBroken ? 1 : 0;
            Assert.True(hand.Breaks.Count <= 1);
            administration.Stop();
            hand.Dispose();
            Assert.Equal((0, 0), (hand.Mapped, hand.Time.Timers));
        }

        Assert.True(broken > 100 && counts.Done > 10_000 && counts.Refused > 1000, $"{broken} broken, {counts.Done} done, {counts.Refused} refused");
        owner.SetDriverData<VirtioPciAdministration>(null);
    }

    [Fact]
    public async Task Reset_break_or_end_at_any_moment_ends_every_command_and_no_late_answer_reaches_what_is_freed()
    {
        var (done, ended) = (0, 0);
        for (var seed = 1; seed <= 200; seed++)
        {
            var random = new Random(seed);
            using var hand = new AdminHand(random.Next(2) == 0 ? 4 : VirtioPciAdminQueue.Depth);
            var lengths = Enumerable.Range(0, 4).Select(_ => random.Next(3) == 0 ? 400 : 8).ToArray();
            var callers = lengths.Select((length, i) => Task.Factory.StartNew(
                () => CallUntilTheEnd(hand, i, length), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default)).ToArray();
            var held = new List<AdminGiven>();
            for (var step = random.Next(40); step > 0; step--)
            {
                // Each of them is with the device before long, unless the device holds all that there is room for.
                var given = Until(() => hand.Look().Except(held).ToList(), () => held.Count >= 2);
                if (given.Count == 0)
                    break;
                var one = given[random.Next(given.Count)];
                if (held.Count < 2 && random.Next(4) == 0)
                    held.Add(one);
                else
                    hand.Answer(one, 0, one.Data);
                hand.Time.Advance(TimeSpan.FromMilliseconds(random.Next(50)));
            }

            var left = hand.Look();
            // 3: it goes without a word.
            var way = random.Next(4);
            switch (way)
            {
                case 0:
                    hand.Admin.Shut();
                    // Late, in the middle of the reset.
                    if (left.Count > 0 && random.Next(2) == 0)
                        hand.Answer(left[0], 0, left[0].Data);
                    hand.Admin.EndAll();
                    break;
                case 1:
                    hand.Queue.Break(new Fault(Errno.ENODEV, "the device is gone"));
                    break;
                case 2:
                    hand.Queue.Break(new Fault(Errno.EIO, "the device failed"));
                    break;
            }

            // And while memory is freed; what is written then is written, or refused.
            var freeing = Task.Run(hand.Admin.Dispose);
            foreach (var late in left)
                hand.AnswerRaw(late, new byte[8], 8, late.Head);
            foreach (var caller in callers)
            {
                await caller.EndsAsync($"caller of seed {seed}");
                var (count, last) = await caller;
                done += count;
                ended++;
                Assert.Equal(way == 1 ? Errno.ENODEV : Errno.EIO, last);
            }

            await freeing.EndsAsync($"end of seed {seed}");
            Assert.Equal((0, 0), (hand.Mapped, hand.Time.Timers));
            foreach (var late in left)
                Assert.False(hand.AnswerRaw(late, new byte[8], 8, late.Head));
        }

        Assert.Equal(800, ended);
        Assert.True(done > 500, $"{done} done");
    }

    [Fact]
    public async Task List_is_agreed_on_while_no_other_command_is_with_the_device()
    {
        await using var rig = await FabricRig.StartAsync();
        var owner = await PlugAsync(rig);
        using var hand = new AdminHand();
        var script = new AdminScript();
        var administration = new VirtioPciAdministration(owner);
        owner.SetDriverData(administration);
        AdminGiven? waiting = null;
        var together = 0;
        hand.OnNotify = () =>
        {
            foreach (var given in hand.Look().Where(g => g != waiting))
            {
                if (given.Command.Opcode == VIRTIO_ADMIN_CMD_DEV_MODE_SET)
                {
                    Volatile.Write(ref waiting, given);
                    continue;
                }

                together += Volatile.Read(ref waiting) is null ? 0 : 1;
                var (status, result) = script.Answer(given.Command, given.Data, given.AnswerLength - AdminAnswer.Size)!.Value;
                hand.Answer(given, status, result);
            }
        };
        administration.Start(hand.Admin);
        var vf = owner.VirtualFunctions[0];
        var mode = Task.Factory.StartNew(() => VirtioPciAdmin.TryModeSet(vf, true, out _), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        await Deadline.UntilAsync(() => Volatile.Read(ref waiting) is not null, "the command");
        await owner.SetVirtualFunctionsAsync(0).In();
        await owner.SetVirtualFunctionsAsync(2).In();
        vf = owner.VirtualFunctions[0];
        var has = false;
        var asker = new Thread(() => has = VirtioPciAdmin.HasLegacyIo(vf));
        asker.Start();
        Deadline.Until(() => asker.ThreadState.HasFlag(ThreadState.WaitSleepJoin), "who asks to wait");
        var before = script.Calls.Count;
        var given = waiting!;
        Volatile.Write(ref waiting, null);
        hand.Answer(given);
        asker.Ends("who asks");
        Assert.True(await mode.In());
        Assert.True(has);
        Assert.Equal((0, before + 2), (together, script.Calls.Count));
        owner.SetDriverData<VirtioPciAdministration>(null);
    }

    private static async Task<PciDevice> PlugAsync(FabricRig rig)
    {
        var owner = await rig.PlugAsync(
            new VirtioFunction(new VirtioRngDevice("dice"), new VirtioFunctionOptions { VirtualFunctions = 2 }, static i => new VirtioRngDevice($"dice{i}")));
        await owner.SetVirtualFunctionsAsync(2).In();
        return owner;
    }

    private static List<AdminGiven> Until(Func<List<AdminGiven>> look, Func<bool> mayBeNone)
    {
        var given = look();
        if (given.Count == 0 && !mayBeNone())
            Deadline.Until(() => (given = look()).Count > 0, "a command");
        return given;
    }

    private static (int Done, Errno Last) CallUntilTheEnd(AdminHand hand, int caller, int length)
    {
        var (data, result) = (new byte[length], new byte[length]);
        for (var done = 0; ; done++)
        {
            data.AsSpan().Fill((byte)((caller * 50) + (done % 50)));
            if (!hand.Admin.TryExecute(
                    new AdminCommand(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, AdminGroupType.VIRTIO_ADMIN_GROUP_TYPE_SRIOV, 1), data, [], result, out var written, out var fault))
                return (done, fault.Errno);
            // Its own, or that of a device which answered while it was reset.
            Assert.True(written == 0 || result.AsSpan().SequenceEqual(data), "another one's answer");
        }
    }

    private static void Run(PciDevice vf, Random random, HashSet<(PciDevice, uint)> mine, Counts counts)
    {
        var buffer = new byte[random.Next(2) == 0 ? 9 : 600];
        var one = mine.Count > 0 ? mine.ElementAt(random.Next(mine.Count)) : (vf, (uint)random.Next(4));
        Fault fault;
        bool isDone;
        switch (random.Next(10))
        {
            case 0:
                isDone = VirtioPciAdmin.TryLegacyCommonWrite(vf, 4, [1, 2, 3, 4], out fault);
                break;
            case 1:
                isDone = VirtioPciAdmin.TryLegacyCommonRead(vf, 0, buffer.AsSpan(0, 4), out fault);
                break;
            case 2:
                isDone = VirtioPciAdmin.TryLegacyDeviceRead(vf, 1, buffer.AsSpan(0, 1), out fault);
                break;
            case 3:
                var places = new LegacyNotifyInfo[4];
                isDone = VirtioPciAdmin.TryLegacyNotifyInfo(vf, places, out var found, out fault);
                Assert.All(places[..found], static p => Assert.True(p.Flags is 1 or 2 && p.Bar is > 0 and < 6 && p.Offset % 2 == 0));
                break;
            case 4:
                isDone = VirtioPciAdmin.TryDevicePartsCreate(vf, (byte)random.Next(2), out var id, out fault);
                Assert.True(!isDone || mine.All(m => m.Item2 != id), "a number was given twice");
                if (isDone)
                    mine.Add((vf, id));
                break;
            case 5:
                isDone = VirtioPciAdmin.TryDevicePartsDestroy(one.Item1, one.Item2, out fault);
                if (isDone || fault.Errno == Errno.ENXIO)
                    mine.Remove(one);
                break;
            case 6:
                isDone = VirtioPciAdmin.TryDevicePartsSize(one.Item1, one.Item2, out _, out fault);
                break;
            case 7:
                isDone = VirtioPciAdmin.TryDevicePartsGet(one.Item1, one.Item2, buffer, out var count, out fault);
                Assert.InRange(count, 0, buffer.Length);
                break;
            case 8:
                isDone = VirtioPciAdmin.TryDevicePartsSet(one.Item1, one.Item2, buffer, out fault);
                break;
            default:
                isDone = VirtioPciAdmin.TryModeSet(vf, random.Next(2) == 0, out fault);
                break;
        }

        Assert.True(isDone ? fault == Fault.None : Known.Contains(fault.Errno), fault.ToString());
        (counts.Done, counts.Refused) = isDone ? (counts.Done + 1, counts.Refused) : (counts.Done, counts.Refused + 1);
    }

    private static void AnswerWrong(AdminHand hand, AdminScript script, AdminGiven given, Random random)
    {
        var (status, result) = script.Answer(given.Command, given.Data, given.AnswerLength - AdminAnswer.Size)!.Value;
        var answer = new byte[given.AnswerLength];
        new AdminAnswer(status, 0).Write(answer);
        result.AsSpan(0, Math.Min(result.Length, answer.Length - AdminAnswer.Size)).CopyTo(answer.AsSpan(AdminAnswer.Size));
        var (written, head) = ((uint)Math.Min(AdminAnswer.Size + result.Length, answer.Length), (uint)given.Head);
        switch (random.Next(150))
        {
            case < 8:
                for (var i = random.Next(4); i >= 0; i--)
                    answer[random.Next(answer.Length)] ^= (byte)(1 << random.Next(8));
                break;
            case < 12:
                random.NextBytes(answer);
                break;
            case < 20:
                written = (uint)random.Next(answer.Length);
                break;
            case < 22:
                written = (uint)random.NextInt64(uint.MaxValue);
                break;
            case 22:
                head = (uint)random.Next(2 * VirtioPciAdminQueue.Depth);
                break;
            case 23:
                head = (uint)random.NextInt64(uint.MaxValue);
                break;
            case 24:
                hand.AnswerRaw(given, answer, written, head);
                break;
            case 25:
                // Never, and then late.
                hand.Time.Advance(VirtioPciAdminQueue.Patience);
                break;
            case < 40:
                BitConverter.TryWriteBytes(answer, (ushort)random.Next(32));
                break;
            case < 43:
                // Over what is behind it, too.
                answer = [.. answer, .. new byte[random.Next(200)]];
                break;
        }

        hand.AnswerRaw(given, answer, written, head);
        hand.Queue.Interrupt();
    }

    private sealed class Counts
    {
        internal int Done { get; set; }

        internal int Refused { get; set; }
    }
}
