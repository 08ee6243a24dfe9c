using System.Buffers.Binary;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Platform.VfioMigrationState;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>A migration that was given up leaves nothing for the next one.</summary>
public sealed class VirtioVfioSessionTests
{
    private const int Header = VfioRecordWriter.HeaderSize;

    [Fact]
    public async Task Record_that_was_cut_off_is_none_of_the_next_load()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        var migration = user.Handle.Migration!;
        var record = new byte[Header + 3];
        BinaryPrimitives.WriteInt64LittleEndian(record, 3);
        (record[^3], record[^2], record[^1]) = (1, 2, 3);
        foreach (var length in new[] { 1, Header, Header + 2 })
        {
            Assert.True(migration.TrySetState(Resuming, out var into, out var fault), fault.Message);
            Assert.True(into!.TryWrite(record.AsSpan(0, length), out _));
            Assert.True(user.Handle.TryReset(out fault), fault.Message);
            Assert.True(migration.TrySetState(Resuming, out into, out fault), fault.Message);
            Assert.True(into!.TryWrite(record, out fault), fault.Message);
            Assert.True(migration.TrySetState(Running, out _, out fault), fault.Message);
            Assert.Equal([1, 2, 3], Assert.Single(world.Owner.Loaded));
            world.Owner.Loaded.Clear();
        }
    }

    [Fact]
    public async Task State_that_was_read_in_part_is_none_of_the_next_save()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        var migration = user.Handle.Migration!;
        Assert.True(migration.TrySetState(StopCopy, out var stream, out var fault), fault.Message);
        Assert.True(stream!.TryRead(new byte[Header + 2], out _, out _));
        Assert.True(migration.TrySetState(Running, out _, out fault), fault.Message);
        world.Owner.State = [9, 8];
        Assert.True(migration.TrySetState(StopCopy, out stream, out fault), fault.Message);
        var data = new byte[100];
        Assert.True(stream!.TryRead(data, out var count, out _));
        Assert.Equal((Header + 2, 2ul, 9, 8), (count, BinaryPrimitives.ReadUInt64LittleEndian(data), (int)data[Header], (int)data[Header + 1]));
        Assert.True(stream.TryRead(data, out count, out _));
        Assert.Equal(0, count);
    }
}
