using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Drivers.VirtioVfioPci;
using Virtbus.Platform;
using Virtbus.Tests.Drivers.VfioPci;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>What a driver takes of an answer, and what it does not (VIRTIO 1.4, 2.12.1 and 2.13). VA-11.</summary>
public sealed class VirtioPciAdminAnswerTests
{
    private const ushort Opcode = VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ;

    // 2.13: what is outside of the length that the device says is not looked at, the status included.
    [Theory]
    [InlineData(0, new byte[] { 0, 0, 0, 0 })]
    [InlineData(8, new byte[] { 0, 0, 0, 0 })]
    [InlineData(10, new byte[] { 5, 6, 0, 0 })]
    [InlineData(12, new byte[] { 5, 6, 7, 8 })]
    public async Task Bytes_outside_of_the_length_are_not_taken(int written, byte[] expected)
    {
        using var hand = new AdminHand();
        var run = hand.GiveAsync(Opcode, 1, [], 4);
        var given = hand.See(1)[0];
        byte[] status = written == 0 ? [22, 0, 3, 0] : [0, 0, 0, 0];
        hand.AnswerRaw(given, [.. status, 0, 0, 0, 0, 5, 6, 7, 8], (uint)written, given.Head);
        hand.Queue.Interrupt();
        var (isDone, _, result, count) = await run.In();
        Assert.True(isDone);
        Assert.Equal(expected, result);
        Assert.Equal(Math.Max(written - AdminAnswer.Size, 0), count);
    }

    // 2.12.1: a reserved qualifier is as INVALID_COMMAND; the status alone decides.
    [Theory]
    [InlineData(AdminQualifier.VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND)]
    [InlineData(8)]
    [InlineData(ushort.MaxValue)]
    public async Task Qualifier_changes_nothing_of_the_answer(int qualifier)
    {
        using var hand = new AdminHand();
        foreach (var (status, errno) in new[] { (AdminStatus.VIRTIO_ADMIN_STATUS_EINVAL, Errno.EINVAL), (AdminStatus.VIRTIO_ADMIN_STATUS_OK, Errno.None), ((ushort)200, Errno.EINVAL) })
        {
            var run = hand.GiveAsync(Opcode, 1, [], 1);
            var given = hand.See(1)[0];
            var answer = new byte[9];
            new AdminAnswer(status, (ushort)qualifier).Write(answer);
            answer[8] = 7;
            hand.AnswerRaw(given, answer, 9, given.Head);
            hand.Queue.Interrupt();
            var (isDone, fault, result, _) = await run.In();
            Assert.Equal((errno == Errno.None, errno, errno == Errno.None ? 7 : 0), (isDone, fault.Errno, result[0]));
        }
    }

    // Around the sizes at which a command gets memory of its own.
    [Fact]
    public async Task Command_and_answer_of_any_length_go_through()
    {
        using var hand = new AdminHand();
        hand.AnswerAll(static given => (0, [.. Enumerable.Range(0, given.AnswerLength - AdminAnswer.Size).Select(i => (byte)(i + given.Data.Length))]));
        var before = hand.Mapped;
        foreach (var length in new[] { 0, 231, 232, 233, 487, 488, 489 })
        {
            foreach (var room in new[] { 0, 1, 247, 248, 249, 255, 256, 257, 504, 505 })
            {
                var (isDone, fault, result, written) = await hand.GiveAsync(Opcode, 1, new byte[length], room).In();
                Assert.True(isDone, $"{length}, {room}: {fault.Message}");
                Assert.Equal((room, Convert.ToHexString([.. Enumerable.Range(0, room).Select(i => (byte)(i + length))])), (written, Convert.ToHexString(result)));
                Assert.Equal(before, hand.Mapped);
            }
        }
    }

    // Its commands for capabilities go together: with a part of them there are no objects, and no word of them is in the list.
    [Fact]
    public async Task Device_with_some_commands_for_capabilities_is_asked_for_none()
    {
        await using var rig = await AdminRig.StartAsync(configure: static r => r.Script.ForSelf = AdminCommandSet.Lists | AdminCommandSet.Of(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, VIRTIO_ADMIN_CMD_DEVICE_CAP_GET));
        Assert.Equal(["0:self:", "1:self:0300000000000000"], rig.Script.Calls.Where(static c => c.Contains("self", StringComparison.Ordinal)));
        var function = await rig.EnableAsync();
        Assert.False(VirtioPciAdmin.HasDeviceParts(function));
        Assert.True(VirtioPciAdmin.HasLegacyIo(function));
    }

    // 2.12.1.1.5: the values of a place's BAR are 1 to 5, whatever is in BAR 0.
    [Fact]
    public async Task Place_of_notifications_in_BAR_0_is_none()
    {
        var world = await VirtioVfioWorld.NewAsync(hasBar0: true);
        var function = world.Functions[0];
        Assert.NotEqual(0ul, function.GetRegion(0).Bar.Size);
        world.Owner.Places.Insert(0, world.Owner.Places[1] with { Bar = 0, Offset = 0 });
        var found = new LegacyNotifyInfo[4];
        Assert.True(VirtioPciAdmin.TryLegacyNotifyInfo(function, found, out var count, out _));
        Assert.Equal(world.Owner.Places[1..], found[..count]);
    }

    // What is saved is loaded: the largest state goes with its object into one command.
    [Fact]
    public async Task Largest_state_that_can_be_moved_is_read_and_set()
    {
        await using var rig = await AdminRig.StartAsync();
        var function = await rig.EnableAsync();
        var state = new byte[VirtioMigration.MaxParts];
        state[^1] = 7;
        rig.Script.State = state;
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(function, ResourceObject.PartsGet, out var get, out _));
        Assert.True(VirtioPciAdmin.TryDevicePartsCreate(function, ResourceObject.PartsSet, out var set, out _));
        var parts = new byte[state.Length];
        Assert.True(VirtioPciAdmin.TryDevicePartsGet(function, get, parts, out var count, out var fault), fault.Message);
        Assert.Equal(state.Length, count);
        rig.Script.State = [];
        Assert.True(VirtioPciAdmin.TryDevicePartsSet(function, set, parts, out fault), fault.Message);
        Assert.True(state.AsSpan().SequenceEqual(rig.Script.State));
    }

    // Who waits for room is told when there is some, and not by a later answer: here there is none.
    [Fact]
    public async Task Command_that_waits_for_the_last_one_begins_when_that_ends()
    {
        for (var round = 0; round < 50; round++)
        {
            using var hand = new AdminHand(2);
            var first = hand.GiveAsync(Opcode, 1, [], 1);
            var given = hand.See(1)[0];
            var isDone = false;
            var waiting = new Thread(() => isDone = hand.Admin.TryExecute(new AdminCommand(Opcode, 1, 2), [], [], new byte[1], out _, out _));
            waiting.Start();
            Deadline.Until(() => waiting.ThreadState.HasFlag(ThreadState.WaitSleepJoin), "who waits for room");
            hand.Answer(given);
            hand.Answer(hand.See(1)[0]);
            Assert.True((await first.In()).IsDone);
            waiting.Ends("who waited");
            Assert.True(isDone);
        }
    }

    // Neither is a command given that was not agreed on, nor an object of another function given back.
    [Fact]
    public async Task Owner_looks_at_what_it_is_asked_for()
    {
        await using var rig = await AdminRig.StartAsync(configure: static r => r.Script.ForMembers = AdminCommandSet.Lists | AdminCommandSet.DeviceParts);
        await rig.EnableAsync();
        var owner = (IVirtioAdminOwner)rig.Owner.GetDriverData<object>()!;
        Assert.True(owner.TryTakeObject(1, out var id));
        owner.FreeObject(0, id);
        Assert.True(owner.HasObject(1, id));
        rig.Script.Clear();
        Assert.False(owner.TryExecute(Opcode, 1, new byte[8], [], new byte[1], out _, out var fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        Assert.DoesNotContain(rig.Script.Calls, static call => call.StartsWith("5:", StringComparison.Ordinal));
    }

    // Nobody finds in an answer that there is not what was in the buffer.
    [Fact]
    public async Task Read_that_fails_leaves_zeros()
    {
        await using var rig = await AdminRig.StartAsync();
        byte[] data = [9, 9];
        Assert.False(VirtioPciAdmin.TryLegacyCommonRead(rig.Owner, 14, data, out var fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        Assert.Equal([0, 0], data);
    }
}
