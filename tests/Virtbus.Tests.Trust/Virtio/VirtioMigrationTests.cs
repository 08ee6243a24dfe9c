using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Tests.Cli;
using static Virtbus.Platform.VfioMigrationState;

namespace Virtbus.Tests.Trust;

/// <summary>
/// A network device and a disk, virtual functions of virtio, go with their guest's work from one daemon to another by the parts of their state, by our client of
/// vfio-user. VV-09.
/// </summary>
public sealed class VirtioMigrationTests(VirtioMachines machines, ITestOutputHelper output) : IClassFixture<VirtioMachines>
{
    private const int RecordHeader = 16;
    private const int FlagsAt = 8;
    private const int TagAt = 12;

    [Theory]
    [InlineData(1, false, false)]
    [InlineData(2, true, false)]
    [InlineData(3, false, true)]
    public async Task Functions_move_under_traffic_and_no_frame_and_no_byte_is_lost_or_comes_twice(int seed, bool fromMessages, bool toMessages)
    {
        var random = new Random(seed);
        using var guest = new VirtioGuest(machines.First, random, fromMessages);
        guest.Run(100);
        await VirtioMove.RunAsync(guest, machines.First, machines.Second, toMessages, random, output);
        guest.Run(100);
        // And back, where the functions serve others since.
        await VirtioMove.RunAsync(guest, machines.Second, machines.First, fromMessages, random, output);
        guest.Run(100);
        guest.SeeAllDone();
        machines.CheckLogs();
    }

    [Fact]
    public void Disks_of_virtual_functions_are_each_a_disk_of_its_own()
    {
        using GuestMemory memory = VirtioGuest.NewMemory(), otherMemory = VirtioGuest.NewMemory();
        using var function = new Attachment(machines.First.SocketOf(VirtioMachine.Disk), memory, byMessage: false, VirtioGuest.DiskVectors);
        using var otherFunction = new Attachment(machines.First.SocketOf(VirtioMachine.OtherDisk), otherMemory, byMessage: false, VirtioGuest.DiskVectors);
        VirtioDiskUser[] disks = [new(function, memory, 0, new Random(8)), new(otherFunction, otherMemory, 0, new Random(9))];
        Assert.True(
            SpinWait.SpinUntil(
                () =>
                {
                    foreach (var disk in disks)
                    {
                        if (disk.Done < 600)
                            disk.Publish(10);
                        disk.Ring();
                        disk.Listen();
                    }

                    return disks.All(static d => d.Done >= 600 && d.InFlight == 0);
                },
                TestFabric.Deadline),
            "requests are not answered");
        foreach (var disk in disks)
            disk.ReadAll();
        Assert.False(disks[0].Content.SequenceEqual(disks[1].Content));
        machines.CheckLogs();
    }

    [Fact]
    public void Migration_that_is_called_off_leaves_the_guest_at_work()
    {
        var random = new Random(4);
        using var guest = new VirtioGuest(machines.First, random, byMessage: false);
        VfioMigrationState[] states = [RunningP2P, Stop, StopCopy];
        for (var furthest = 1; furthest <= states.Length; furthest++)
        {
            guest.Run(30);
            guest.PauseOutside();
            foreach (var state in states[..furthest])
                VirtioMove.SetState(guest.Functions, state);
            if (furthest == states.Length)
                Assert.All(guest.Functions, static f => Assert.NotEmpty(f.ReadState()));
            guest.PostInVain();
            guest.SeeNothingDone();
            VirtioMove.SetState(guest.Functions, Running);
            guest.ResumeOutside();
        }

        guest.Run(30);
        guest.SeeAllDone();
        machines.CheckLogs();
    }

    [Fact]
    public async Task Target_that_dies_in_the_middle_of_the_state_leaves_the_source_at_work_and_the_next_target_takes_it()
    {
        var random = new Random(5);
        using var guest = new VirtioGuest(machines.First, random, byMessage: false);
        guest.Run(30);
        await using (var dying = await new VirtioMachine().BeginAsync())
        {
            using var memory = VirtioGuest.NewMemory();
            var targets = guest.Prepare(dying, memory, byMessage: false);
            VirtioMove.SetState(targets, Resuming);
            guest.PauseOutside();
            VirtioMove.SetState(guest.Functions, StopCopy);
            guest.PostInVain();
            foreach (var (source, target) in guest.Functions.Zip(targets))
            {
                var state = source.ReadState();
                target.WriteState(state.AsSpan(0, random.Next(1, state.Length)), random);
            }

            await dying.Daemon.KillAsync();
            foreach (var target in targets)
            {
                Assert.False(target.Client.TryWriteMigrationData([1], out _));
                Assert.False(target.Client.TrySetMigrationState(Stop, out _));
                target.Dispose();
            }

            guest.SeeNothingDone();
        }

        VirtioMove.SetState(guest.Functions, Running);
        guest.ResumeOutside();
        guest.Run(50);
        await VirtioMove.RunAsync(guest, machines.First, machines.Second, byMessage: false, random, output);
        guest.Run(50);
        guest.SeeAllDone();
        machines.CheckLogs();
    }

    [Fact]
    public void State_that_is_wrong_is_refused_and_the_target_is_usable_afterwards()
    {
        var random = new Random(6);
        byte[][] states;
        using (var guest = new VirtioGuest(machines.First, random, byMessage: false))
        {
            guest.Run(30);
            guest.PauseOutside();
            VirtioMove.SetState(guest.Functions, StopCopy);
            states = [.. guest.Functions.Select(static f => f.ReadState())];
        }

        var (taken, refused) = (0, 0);
        for (var function = 0; function < states.Length; function++)
        {
            var good = states[function];
            Assert.Equal(good.Length - RecordHeader, BinaryPrimitives.ReadInt64LittleEndian(good));
            Assert.Null(Load(function, good, random));
            Assert.Null(Load(function, [.. Optional(good), .. good], random));
            // Cut off anywhere, of no kind that there is, larger than any, of another device.
            for (var length = 1; length < good.Length; length += random.Next(1, good.Length / 10))
                Assert.Equal(Errno.EINVAL, Load(function, good[..length], random));
            Assert.Equal(Errno.EOPNOTSUPP, Load(function, Changed(good, TagAt, 0x40), random));
            Assert.Equal(Errno.EINVAL, Load(function, Changed(good, FlagsAt, 2), random));
            Assert.Equal(Errno.ENOMEM, Load(function, Changed(good, 4, 1), random));
            Assert.Equal(Errno.EINVAL, Load(function, states[1 - function], random));
            // Each byte of it, sometime: what is no state is refused; what might be one is taken, and harms nobody.
            for (var at = RecordHeader; at < good.Length; at += random.Next(1, 20))
            {
                if (Load(function, Changed(good, at, (byte)(1 << random.Next(8))), random) is { } error)
                {
                    Assert.Equal(Errno.EINVAL, error);
                    refused++;
                }
                else
                {
                    taken++;
                }
            }
        }

        output.WriteLine($"Of states with a wrong bit {refused} were refused and {taken} taken.");
        Assert.True(refused > 20 && taken > 5);
        using (var guest = new VirtioGuest(machines.Second, random, byMessage: false))
        {
            guest.Run(100);
            guest.SeeAllDone();
        }

        machines.CheckLogs();
    }

    // A record that may be left out, of a kind that nobody knows.
    private static byte[] Optional(byte[] good)
    {
        var record = good[..(RecordHeader + 5)];
        BinaryPrimitives.WriteInt64LittleEndian(record, 5);
        (record[FlagsAt], record[TagAt]) = (1, 9);
        return record;
    }

    private static byte[] Changed(byte[] bytes, int at, byte bits)
    {
        var changed = (byte[])bytes.Clone();
        changed[at] ^= bits;
        return changed;
    }

    /// <summary>Loads a state into a function of the second machine, has it run if it was taken, and resets it.</summary>
    /// <returns>The error by which the state was refused; null when it was taken.</returns>
    private Errno? Load(int function, ReadOnlySpan<byte> stream, Random random)
    {
        using var memory = VirtioGuest.NewMemory();
        var targets = VirtioGuest.Attach(machines.Second, memory, byMessage: false);
        try
        {
            var target = targets[function];
            target.State = Resuming;
            Errno? error = null;
            while (error is null && !stream.IsEmpty)
            {
                var count = random.Next(1, stream.Length + 1);
                if (!target.Client.TryWriteMigrationData(stream[..count], out var fault))
                    error = fault.Errno;
                stream = stream[count..];
            }

            if (error is null && !target.Client.TrySetMigrationState(Stop, out var refusal))
                error = refusal.Errno;
            if (error is null)
                target.State = Running;
            Assert.True(target.Client.TryReset(out var problem), problem.Message);
            Assert.Equal(Running, target.State);
            Assert.StartsWith("0 ", VirtioUser.Describe(target), StringComparison.Ordinal);
            return error;
        }
        finally
        {
            foreach (var target in targets)
                target.Dispose();
        }
    }
}
