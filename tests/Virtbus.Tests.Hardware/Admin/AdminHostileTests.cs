using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using Virtbus.Virtio.Rings;
using static Virtbus.Tests.Hardware.Admin.AdminObjectTests;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminQualifier;
using static Virtbus.Virtio.Admin.AdminStatus;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>Drivers of an owner that send what makes no sense, and functions, resets and commands at once.</summary>
public sealed class AdminHostileTests
{
    private const ushort Self = AdminRig.Self, Members = AdminRig.Members;

    private static readonly HashSet<ushort> Statuses =
    [
        VIRTIO_ADMIN_STATUS_OK, VIRTIO_ADMIN_STATUS_ENXIO, VIRTIO_ADMIN_STATUS_ENOMEM, VIRTIO_ADMIN_STATUS_EBUSY, VIRTIO_ADMIN_STATUS_EEXIST, VIRTIO_ADMIN_STATUS_EINVAL,
        VIRTIO_ADMIN_STATUS_ENOSPC,
    ];

    // All four together are 100,000.
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Mutated_commands_are_answered_and_do_no_harm(int seed)
    {
        using var rig = new AdminRig();
        var random = new Random(seed);
        var done = 0;
        byte[] state = [];
        var commands = new List<(byte[] Command, int Room)>();
        for (var i = 0; i < 25_000; i += commands.Count)
        {
            if (i % 500 == 0)
                state = Begin(rig);
            if (i % 5000 == 0)
            {
                rig.Enable(0);
                rig.Enable(1 + random.Next(2));
            }

            commands.Clear();
            while (commands.Count < 4)
                commands.Add((Mutate(random, Make(random, state)), random.Next(8) switch { 0 => random.Next(1, 9), 1 => random.Next(9, 24), 2 => 0x1FF8, _ => 8 + (8 * random.Next(80)) }));
            foreach (var ((_, room), written) in commands.Zip(rig.RawAll(commands)))
            {
                Assert.InRange(written.Length, Math.Min(room, 8), room);
                var answer = AdminAnswer.Read(written);
                // What has no room is left out, of the status too.
                if (written.Length < 8)
                    continue;
                Assert.Contains(answer.Status, Statuses);
                Assert.Equal(answer.IsOk, answer.Qualifier == VIRTIO_ADMIN_STATUS_Q_OK);
                Assert.True(answer.IsOk || written.Length == 8);
                done += answer.IsOk ? 1 : 0;
            }
        }

        // Enough of them got past the first checks.
        Assert.InRange(done, 2500, 25_000);
        Assert.Equal(0, rig.Driver.Status & VirtioStatus.DEVICE_NEEDS_RESET);
        rig.Start();
        rig.Enable(0);
        rig.Enable(2);
        rig.UseAll();
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_QUERY, Members, 0, [], 8);
        var vf = rig.Vf(0);
        vf.Start();
        vf.OfferSector(1);
        Assert.Equal(AdminVf.Sector(1), vf.AwaitSector());
    }

    [Fact]
    public async Task Functions_come_and_go_while_commands_are_sent()
    {
        using var rig = new AdminRig(functions: 0, make: static index => new VirtioRngDevice($"r{index}"));
        rig.UseAll();
        Limit(rig, 2, 2);
        var seen = new HashSet<ushort>();
        var stop = false;
        var sent = 0;
        var toggler = Task.Run(() =>
        {
            while (!Volatile.Read(ref stop))
            {
                rig.Enable(2);
                // As long as it takes for a command to find them.
                var before = Volatile.Read(ref sent);
                SpinWait.SpinUntil(() => Volatile.Read(ref sent) > before + 3 || Volatile.Read(ref stop));
                rig.Enable(0);
            }
        });
        try
        {
            for (var i = 0; i < 2000; i++)
            {
                var (opcode, data) = (i % 5) switch
                {
                    0 => (VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, (byte[])[18]),
                    1 => (VIRTIO_ADMIN_CMD_DEV_MODE_SET, [1]),
                    2 => (VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, [.. Header(0), 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                    3 => (VIRTIO_ADMIN_CMD_DEV_PARTS_GET, [.. Header(0), 1]),
                    _ => (VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY, Header(0)),
                };
                var (answer, _) = rig.Send(opcode, Members, 1 + ((ulong)i % 2), data, opcode == VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ ? 1 : 0x3000);
                Assert.True(
                    answer.IsOk || answer == AdminAnswer.TryAgain || answer == AdminAnswer.Invalid(VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP)
                    || answer == AdminAnswer.Invalid(VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER) || answer.Status is VIRTIO_ADMIN_STATUS_ENXIO or VIRTIO_ADMIN_STATUS_EEXIST,
                    $"{opcode}: {answer}");
                seen.Add(answer.Qualifier);
                Volatile.Write(ref sent, i);
            }
        }
        finally
        {
            Volatile.Write(ref stop, true);
        }

        await toggler.In();

        Assert.Contains(VIRTIO_ADMIN_STATUS_Q_OK, seen);
        Assert.True(seen.Overlaps([VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP, VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER]));
    }

    // A command that is in work is done or not; what is behind it is forgotten, and nothing is written after the reset.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Reset_in_the_middle_leaves_nothing_behind(bool isOfFunction)
    {
        using var rig = new AdminRig();
        for (var round = 0; round < 20; round++)
        {
            rig.UseAll();
            Limit(rig, 2, 2);
            Create(rig, 1, 0);
            var command = new byte[AdminCommand.Size + 9];
            new AdminCommand(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1).Write(command);
            command[^1] = 1;
            rig.Slot.Memory.Write(AdminRig.CommandAt, command);
            for (var i = 0; i < 24; i++)
            {
                Assert.True(rig.Ring.Add(
                [
                    new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + AdminRig.CommandAt), (uint)command.Length, false),
                    new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + AdminRig.AnswerAt + ((ulong)i * 0x400)), 0x400, true),
                ]) >= 0);
            }

            rig.Ring.Publish();
            rig.Registers.Notify(rig.AdminIndex);
            for (var i = 0; i < round; i++)
                rig.Await();
            if (isOfFunction)
                rig.ResetFunction();
            else
                Assert.True(rig.Driver.TryReset(out _));
            var blank = new byte[24 * 0x400];
            blank.AsSpan().Fill(0xA5);
            rig.Slot.Memory.Write(AdminRig.AnswerAt, blank);
            rig.Start();
            if (isOfFunction)
                rig.Enable(2);
            rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [], 8);
            var after = new byte[blank.Length];
            rig.Slot.Memory.Read(AdminRig.AnswerAt, after);
            Assert.False(after.AsSpan(0x400).ContainsAnyExcept((byte)0xA5));
        }
    }

    private static byte[] Begin(AdminRig rig)
    {
        rig.Start();
        rig.UseAll();
        Limit(rig, 4, 4);
        Create(rig, 1, 0);
        Create(rig, 1, 1, ResourceObject.PartsSet);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [1]);
        return rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(0), 1], 0x4000);
    }

    // One that makes sense.
    private static byte[] Make(Random random, byte[] state)
    {
        var opcode = (ushort)random.Next(AdminOpcode.Count);
        var group = opcode is >= VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY and <= VIRTIO_ADMIN_CMD_DRIVER_CAP_SET ? Self : Members;
        byte[] data = opcode switch
        {
            // All of them, mostly: else little would be done after a while.
            VIRTIO_ADMIN_CMD_LIST_USE => [0xFF, 0xFF, 3, 0, 0, 0, 0, 0],
            VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE or VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE => [(byte)random.Next(24), 0, 0, 0, 0, 0, 0, 0, .. Bytes(random, 1 + random.Next(4))],
            VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ or VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ => [(byte)random.Next(24)],
            VIRTIO_ADMIN_CMD_DEVICE_CAP_GET => new byte[8],
            VIRTIO_ADMIN_CMD_DRIVER_CAP_SET => [0, 0, 0, 0, 0, 0, 0, 0, 4, 4],
            VIRTIO_ADMIN_CMD_DEV_MODE_SET => [(byte)random.Next(2)],
            >= VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE and <= VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY => [.. Header((uint)random.Next(8)), 0, 0, 0, 0, 0, 0, 0, 0, (byte)random.Next(2), 0, 0, 0, 0, 0, 0, 0],
            VIRTIO_ADMIN_CMD_DEV_PARTS_SET => [.. Header(1), .. state],
            >= VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET => [.. Header(0), (byte)random.Next(2), 0, 0, 0, 0, 0, 0, 0, .. state.AsSpan(0, Math.Min(state.Length, 64))],
            _ => [],
        };
        var bytes = new byte[AdminCommand.Size + data.Length];
        new AdminCommand(opcode, group, group == Self ? 0 : 1 + (ulong)random.Next(2)).Write(bytes);
        data.CopyTo(bytes, AdminCommand.Size);
        return bytes;
    }

    private static byte[] Mutate(Random random, byte[] command)
    {
        switch (random.Next(8))
        {
            case 0:
                return command[..random.Next(command.Length + 1)];
            case 1:
                return [.. command, .. Bytes(random, random.Next(64))];
            case 2:
                return Bytes(random, random.Next(128));
            case 3:
                BinaryPrimitives.WriteUInt16LittleEndian(command.AsSpan(2 * random.Next(command.Length / 2)), (ushort)random.Next(0x10000));
                return command;
            default:
                for (var flips = random.Next(3); flips > 0; flips--)
                    command[random.Next(command.Length)] ^= (byte)(1 << random.Next(8));
                return command;
        }
    }

    private static byte[] Bytes(Random random, int length)
    {
        var bytes = new byte[length];
        random.NextBytes(bytes);
        return bytes;
    }
}
