using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Drivers.VirtioVfioPci;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Platform.VfioMigrationState;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>The migration of a virtual function by the parts of its state (section 8.6 of the semantics).</summary>
public sealed class VirtioVfioMigrationTests
{
    private const int Header = VfioRecordWriter.HeaderSize;

    [Fact]
    public async Task States_are_commands_of_the_physical_function()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        var migration = user.Handle.Migration!;
        Assert.Equal(VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P, migration.Flags);
        (VfioMigrationState To, string Calls)[] steps =
        [
            (RunningP2P, "11:01"),
            (Stop, ""),
            (RunningP2P, ""),
            (Running, "11:00"),
            (StopCopy, "11:01|a:0000|e:0000|f:0000|d:0000"),
            (Running, "11:00"),
            (Resuming, "11:01|a:0001"),
            (Stop, "d:0000"),
            (Running, "11:00"),
        ];
        foreach (var (to, calls) in steps)
        {
            world.Owner.Calls.Clear();
            Assert.True(migration.TrySetState(to, out var stream, out var fault), fault.Message);
            Assert.Equal(to is StopCopy or Resuming, stream is not null);
            Assert.Equal(calls, string.Join('|', world.Owner.Calls.Select(Describe)));
        }

        Assert.Equal(0, world.Owner.Objects);

        // Opcode, and what of the data matters: the mode, or the number of the object and its kind.
        static string Describe(string call)
        {
            var parts = call.Split(' ');
            Assert.Equal("0", parts[1]);
            var data = Convert.FromHexString(parts[2]);
            return parts[0] == "11" ? $"11:{data[0]:x2}" : $"{parts[0]}:{data[4]:x2}{(data.Length > 16 ? data[16] : 0):x2}";
        }
    }

    [Fact]
    public async Task State_moves_to_another_function_byte_by_byte_however_it_is_cut()
    {
        foreach (var piece in new[] { 1, 7, 16, 100 })
        {
            var (source, from) = await VirtioVfioWorld.OpenAsync();
            var (target, to) = await VirtioVfioWorld.OpenAsync();
            source.Owner.State = [.. Enumerable.Range(0, 300).Select(static i => (byte)(i * 7))];
            Assert.Equal(Header + 300ul, from.Handle.Migration!.DataSize);
            var data = Save(from);
            Assert.Equal((ulong)300, BinaryPrimitives.ReadUInt64LittleEndian(data));
            Assert.Equal(0ul, BinaryPrimitives.ReadUInt64LittleEndian(data.AsSpan(8)));
            Assert.Equal(source.Owner.State, data[Header..]);
            Assert.True(to.Handle.Migration!.TrySetState(Resuming, out var into, out _));
            foreach (var part in data.Chunk(piece))
                Assert.True(into!.TryWrite(part, out var fault), fault.Message);
            Assert.Equal(source.Owner.State, Assert.Single(target.Owner.Loaded));
            Assert.True(target.Owner.IsStopped);
            Assert.True(to.Handle.Migration.TrySetState(Running, out _, out _));
            Assert.False(target.Owner.IsStopped);
            Assert.Equal((0, 0), (source.Owner.Objects, target.Owner.Objects));
            from.Dispose();
            to.Dispose();
        }
    }

    [Fact]
    public async Task Unknown_record_is_left_out_when_it_may_be_and_else_refused()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        var migration = user.Handle.Migration!;
        Assert.True(migration.TrySetState(Resuming, out var into, out var fault));
        Assert.True(into!.TryWrite([.. Record(7, 1, [9, 9, 9]), .. Record(0, 0, [1, 2]), .. Record(8, 1, [])], out fault), fault.Message);
        Assert.Equal([1, 2], Assert.Single(world.Owner.Loaded));
        Assert.False(into.TryWrite(Record(7, 0, [3]), out fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        Refused(migration, into);
    }

    [Theory]
    [InlineData(VirtioMigration.MaxParts + 1ul, 0u, Errno.ENOMEM)]
    [InlineData(ulong.MaxValue, 0u, Errno.ENOMEM)]
    [InlineData(1ul << 32, 1u, Errno.ENOMEM)]
    [InlineData(4ul, 2u, Errno.EINVAL)]
    public async Task Record_that_is_too_large_or_strange_is_refused_at_its_header(ulong size, uint flags, Errno errno)
    {
        var (_, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        var migration = user.Handle.Migration!;
        Assert.True(migration.TrySetState(Resuming, out var into, out var fault));
        var header = Record(0, flags, []);
        BinaryPrimitives.WriteUInt64LittleEndian(header, size);
        Assert.False(into!.TryWrite(header, out fault));
        Assert.Equal(errno, fault.Errno);
        Refused(migration, into);
    }

    [Fact]
    public async Task Load_that_fails_leaves_a_target_that_a_reset_brings_back()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        var migration = user.Handle.Migration!;
        Assert.True(migration.TrySetState(Resuming, out var into, out var fault));
        world.Owner.Fails[VIRTIO_ADMIN_CMD_DEV_PARTS_SET] = Errno.EINVAL;
        Assert.False(into!.TryWrite(Record(0, 0, [1, 2]), out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        world.Owner.Fails.Clear();
        Refused(migration, into);
        Assert.True(user.Handle.TryReset(out fault), fault.Message);
        Assert.Equal(Running, migration.State);
        Assert.False(world.Owner.IsStopped);
        Assert.Equal(0, world.Owner.Objects);
        // As good as before.
        Assert.True(migration.TrySetState(Resuming, out into, out _));
        Assert.True(into!.TryWrite(Record(0, 0, [3]), out _));
        Assert.True(migration.TrySetState(Running, out _, out fault), fault.Message);
        Assert.Equal([3], Assert.Single(world.Owner.Loaded));
    }

    [Fact]
    public async Task Data_that_ends_in_the_middle_is_no_load_and_none_at_all_is_one_that_was_called_off()
    {
        for (var length = 0; length < Header + 2; length++)
        {
            var (world, user) = await VirtioVfioWorld.OpenAsync();
            using var open = user;
            var migration = user.Handle.Migration!;
            Assert.True(migration.TrySetState(Resuming, out var into, out _));
            Assert.True(into!.TryWrite(Record(0, 0, [1, 2]).AsSpan(0, length), out _));
            Assert.Equal(length == 0, migration.TrySetState(Running, out _, out var fault));
            Assert.Equal(length == 0 ? Errno.None : Errno.EINVAL, fault.Errno);
            Assert.Empty(world.Owner.Loaded);
        }
    }

    [Theory]
    [InlineData(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE)]
    [InlineData(VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET)]
    [InlineData(VIRTIO_ADMIN_CMD_DEV_PARTS_GET)]
    public async Task Device_that_refuses_to_be_saved_stands_still_and_can_go_on(ushort opcode)
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        var migration = user.Handle.Migration!;
        world.Owner.Fails[opcode] = Errno.ENOMEM;
        Assert.Equal(opcode == VIRTIO_ADMIN_CMD_DEV_PARTS_GET, migration.DataSize > 0);
        Assert.False(migration.TrySetState(StopCopy, out _, out var fault));
        Assert.Equal((Errno.ENOMEM, Stop, 0), (fault.Errno, migration.State, world.Owner.Objects));
        world.Owner.Fails.Clear();
        Assert.True(migration.TrySetState(StopCopy, out _, out fault), fault.Message);
        Assert.True(migration.TrySetState(Running, out _, out fault), fault.Message);
    }

    [Theory]
    [InlineData(0u, Errno.EINVAL)]
    [InlineData(VirtioMigration.MaxParts + 1u, Errno.ENOMEM)]
    [InlineData(uint.MaxValue, Errno.ENOMEM)]
    public async Task Device_that_says_an_impossible_size_is_not_saved(uint size, Errno errno)
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        world.Owner.Size = size;
        Assert.False(user.Handle.Migration!.TrySetState(StopCopy, out _, out var fault));
        Assert.Equal((errno, 0), (fault.Errno, world.Owner.Objects));
    }

    [Fact]
    public async Task Device_that_gives_less_than_it_said_is_saved_as_it_is_and_one_that_gives_nothing_is_not()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        world.Owner.Size = 64;
        Assert.Equal(Header + 5, Save(user).Length);
        Assert.True(user.Handle.Migration!.TrySetState(Stop, out _, out _));
        world.Owner.State = [];
        Assert.False(user.Handle.Migration.TrySetState(StopCopy, out _, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    }

    [Fact]
    public async Task Objects_that_are_all_in_use_are_said_so()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        world.Owner.ObjectLimit = 1;
        await world.BindAsync(1);
        using var other = VfioPciWorld.Open(world.Functions[1]);
        Assert.True(other.Handle.Migration!.TrySetState(Resuming, out _, out _));
        Assert.False(user.Handle.Migration!.TrySetState(StopCopy, out _, out var fault));
        Assert.Equal(Errno.ENOSPC, fault.Errno);
        // Whoever had it is gone.
        other.Dispose();
        Assert.True(user.Handle.Migration.TrySetState(StopCopy, out _, out fault), fault.Message);
    }

    [Theory]
    [InlineData(RunningP2P)]
    [InlineData(StopCopy)]
    [InlineData(Resuming)]
    public async Task Reset_and_close_let_a_function_go_on_that_stood_still(VfioMigrationState state)
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        Assert.True(user.Handle.Migration!.TrySetState(state, out var stream, out _));
        Assert.True(world.Owner.IsStopped);
        Assert.True(user.Handle.TryReset(out _));
        Assert.Equal((Running, false, 0), (user.Handle.Migration.State, world.Owner.IsStopped, world.Owner.Objects));
        if (stream is not null)
        {
            Assert.False(state == StopCopy ? stream.TryRead(new byte[1], out _, out var fault) : stream.TryWrite(new byte[1], out fault));
            Assert.Equal(Errno.ENODEV, fault.Errno);
        }

        // One that runs is not told to.
        world.Owner.Calls.Clear();
        Assert.True(user.Handle.TryReset(out _));
        Assert.Empty(world.Owner.Calls);
        Assert.True(user.Handle.Migration.TrySetState(state, out _, out _));
        var pageSize = 4096ul;
        IovaRange[] ranges = [new(default, 1 << 20)];
        Assert.True(user.Handle.DmaLogging!.TryStart(ref pageSize, ranges, out _));
        user.Dispose();
        Assert.Equal((false, 0), (world.Owner.IsStopped, world.Owner.Objects));
        using var next = VfioPciWorld.Open(world.Functions[0]);
        Assert.Equal(Running, next.Handle.Migration!.State);
        Assert.True(next.Handle.DmaLogging!.TryStart(ref pageSize, ranges, out _));
    }

    [Fact]
    public async Task Reset_of_the_physical_function_ends_what_was_under_way()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        Assert.True(user.Handle.Migration!.TrySetState(Resuming, out var into, out _));
        await PciReset.ResetAsync(world.Physical).In();
        Assert.Equal(Running, user.Handle.Migration.State);
        Assert.False(world.Owner.IsStopped);
        Assert.False(into!.TryWrite(Record(0, 0, [1]), out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.Empty(world.Owner.Loaded);
    }

    [Fact]
    public async Task Physical_function_whose_driver_goes_in_the_middle_is_an_error_and_no_more()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        var migration = user.Handle.Migration!;
        Assert.True(migration.TrySetState(Stop, out _, out _));
        world.Physical.SetDriverData<FakeAdminOwner>(null);
        Assert.False(migration.TrySetState(StopCopy, out _, out var fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        Assert.Equal(0ul, migration.DataSize);
        Assert.False(migration.TrySetState(Running, out _, out fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
        user.Dispose();
        using var next = OpenPlain(world);
        Assert.NotNull(next);
    }

    private static PciUser? OpenPlain(VirtioVfioWorld world)
    {
        world.Physical.SetDriverData(world.Owner);
        return VfioPciWorld.Open(world.Functions[0]);
    }

    private static void Refused(VfioMigrationStream into) =>
        Assert.Equal(Errno.EINVAL, into.TryWrite(Record(0, 0, [4]), out var fault) ? Errno.None : fault.Errno);

    // Only a reset leads out.
    private static void Refused(IVfioMigrationOps migration, VfioMigrationStream into)
    {
        Refused(into);
        Assert.False(migration.TrySetState(Running, out _, out var fault));
        Assert.Equal((Errno.EINVAL, Resuming), (fault.Errno, migration.State));
    }

    private static byte[] Save(PciUser user)
    {
        Assert.True(user.Handle.Migration!.TrySetState(StopCopy, out var stream, out var fault), fault.Message);
        var data = new List<byte>();
        var buffer = new byte[11];
        while (stream!.TryRead(buffer, out var count, out fault) && count > 0)
            data.AddRange(buffer.AsSpan(0, count));
        Assert.Equal(Errno.None, fault.Errno);
        return [.. data];
    }

    private static byte[] Record(uint tag, uint flags, byte[] payload)
    {
        var record = new byte[Header + payload.Length];
        BinaryPrimitives.WriteInt64LittleEndian(record, payload.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(8), flags);
        BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(12), tag);
        payload.CopyTo(record, Header);
        return record;
    }
}
