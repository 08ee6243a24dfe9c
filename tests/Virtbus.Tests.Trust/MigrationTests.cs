using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Platform.VfioMigrationState;

namespace Virtbus.Tests.Trust;

/// <summary>Virtual functions with their guest's traffic go from one daemon to another, by our client of vfio-user.</summary>
public sealed class MigrationTests(TwoMachines machines, ITestOutputHelper output) : IClassFixture<TwoMachines>
{
    private const int Rounds = 6;

    [Theory]
    [InlineData(1, false, false, true)]
    [InlineData(2, false, false, false)]
    [InlineData(3, true, false, false)]
    [InlineData(4, false, true, true)]
    public void Functions_move_under_traffic_and_no_frame_is_lost_or_comes_twice(int seed, bool fromMessages, bool toMessages, bool isDrained)
    {
        var random = new Random(seed);
        using var guest = new Guest(machines, random, fromMessages);
        guest.Traffic.Run(40);

        using var memory = Guest.NewMemory();
        var targets = guest.Prepare(memory, toMessages);
        var streams = guest.Functions.Select(_ => new MemoryStream()).ToArray();
        foreach (var target in targets)
            target.State = Resuming;
        foreach (var function in guest.Functions)
        {
            function.StartLog(guest.Memory);
            function.State = PreCopy;
        }
        var pages = Guest.NewPages();
        Array.Fill(pages, ulong.MaxValue);
        var copied = new List<int> { guest.Memory.CopyDirty(pages, memory) };
        for (var round = 0; round < Rounds; round++)
        {
            guest.Traffic.Run(10);
            Bring();
            copied.Add(CopyMemory());
        }

        // From here on no function reaches another one, and so none is reached when it stands still.
        guest.PauseOutside();
        if (isDrained)
            guest.Traffic.Drain();
        SetState(guest.Functions, PreCopyP2P);
        guest.Traffic.Turn();
        guest.SeeNothingSent();
        Assert.True(!isDrained || guest.InFlight > 0);
        guest.PostCopies();
        // The guest stands still, and then its functions.
        SetState(guest.Functions, StopCopy);
        var inFlight = guest.InFlight;
        guest.NoteDropped();
        Bring();
        copied.Add(CopyMemory());
        output.WriteLine($"{guest.Traffic}; {inFlight} descriptors in flight; pages copied: {string.Join(' ', copied)}");

        // All of it is there, to the byte, and the functions that stand still let nothing change.
        var image = guest.Memory.Copy();
        Assert.True(image.AsSpan().SequenceEqual(memory.Copy()), "The memories differ.");
        guest.SendInVain();
        SetState(targets, Stop);
        for (var i = 0; i < targets.Length; i++)
        {
            Assert.Equal(guest.Drivers[i].ReadRegisters(), ReadRegisters(targets[i]));
            targets[i].State = StopCopy;
            Assert.Equal(LastImage(streams[i].ToArray()), LastImage(targets[i].ReadState()));
            targets[i].State = Stop;
        }
        Assert.True(image.AsSpan().SequenceEqual(guest.Memory.Copy()), "A function that stands still wrote to memory.");
        Assert.True(image.AsSpan().SequenceEqual(memory.Copy()), "A function that does not run yet wrote to memory.");
        // What is sent there first is what the guest had published here.
        guest.MoveOutside();
        SetState(targets, RunningP2P);
        SetState(targets, Running);
        guest.MoveTo(targets, memory);
        guest.SeeReminders();
        guest.SeeCopies();
        guest.Traffic.Run(40);
        guest.SeeAllDone();
        for (var i = 0; i < targets.Length; i++)
            UserDevice.Check(DeviceKind.Nic, machines.SocketOf(0, i), byMessage: false, twinSocket: true);
        machines.CheckLogs();

        void Bring()
        {
            for (var i = 0; i < targets.Length; i++)
            {
                var bytes = guest.Functions[i].ReadState();
                streams[i].Write(bytes);
                targets[i].WriteState(bytes, random);
            }
        }

        int CopyMemory()
        {
            var dirty = Guest.NewPages();
            foreach (var function in guest.Functions)
                function.ReportLog(guest.Memory, dirty);
            return guest.Memory.CopyDirty(dirty, memory);
        }
    }

    [Theory]
    [InlineData(PreCopy)]
    [InlineData(PreCopyP2P)]
    [InlineData(StopCopy)]
    public void Migration_that_is_called_off_leaves_the_guest_at_work(VfioMigrationState furthest)
    {
        var random = new Random((int)furthest);
        VfioMigrationState[] states = furthest switch
        {
            StopCopy => [PreCopyP2P, StopCopy],
            PreCopyP2P => [PreCopyP2P],
            _ => [],
        };
        using var guest = new Guest(machines, random, byMessage: false);
        guest.Traffic.Run(10);
        guest.NoteDropped();
        for (var time = 0; time < 3; time++)
        {
            foreach (var function in guest.Functions)
                function.StartLog(guest.Memory);
            SetState(guest.Functions, PreCopy);
            guest.Traffic.Run(5);
            // By way of P2P for all, as nothing is to reach a function that stands still.
            guest.PauseOutside();
            foreach (var state in states)
                SetState(guest.Functions, state);
            foreach (var function in guest.Functions)
                function.ReadState();
            SetState(guest.Functions, RunningP2P);
            SetState(guest.Functions, Running);
            guest.ResumeOutside();
            foreach (var function in guest.Functions)
                function.StopLog();
            guest.Traffic.Run(10);
        }
        guest.SeeAllDone();
        machines.CheckLogs();
    }

    [Fact]
    public void State_that_is_wrong_is_refused_and_the_target_is_usable_afterwards()
    {
        var random = new Random(7);
        var good = Save(random);
        Assert.Null(Load(good, random));

        // Cut off anywhere: only a whole one is taken, and an empty one is one that was called off.
        for (var length = 1; length < good.Length; length += random.Next(1, 9))
            Assert.Equal(Errno.EINVAL, Load(good.AsSpan(0, length), random));
        Assert.Equal(Errno.EINVAL, Load([.. good, .. good], random));
        Assert.Equal(Errno.EINVAL, Load([.. good, 0], random));
        Assert.Equal(Errno.EINVAL, Load(good.AsSpan(1), random));
        // Records: of another kind of function, larger than any, of no kind that there is, in another order.
        var (identity, image, end) = (Record(good, 0), Record(good, 1), Record(good, 2));
        Assert.Equal(good.Length, identity.Length + image.Length + end.Length);
        for (var i = RecordHeader; i < identity.Length; i++)
            Assert.Equal(Errno.EINVAL, Load([.. Changed(identity, i, 0x10), .. image, .. end], random));
        Assert.Equal(Errno.ENOMEM, Load([.. Changed(identity, 4, 1), .. image, .. end], random));
        Assert.Equal(Errno.EINVAL, Load([.. identity, .. Changed(image, TagAt, 0x40), .. end], random));
        Assert.Equal(Errno.EINVAL, Load([.. image, .. identity, .. end], random));
        Assert.Equal(Errno.EINVAL, Load([.. identity, .. end], random));
        Assert.Equal(Errno.EINVAL, Load([.. identity, .. image], random));

        // Each byte of the function's own state: what is no state is refused; what might be one is taken, and harms nobody.
        var (taken, refused) = (0, 0);
        for (var i = RecordHeader; i < image.Length; i++)
        {
            if (Load([.. identity, .. Changed(image, i, (byte)(1 << random.Next(8))), .. end], random) is { } error)
            {
                Assert.Equal(Errno.EINVAL, error);
                refused++;
            }
            else
            {
                taken++;
            }
        }
        output.WriteLine($"Of states with a wrong bit {refused} were refused and {taken} taken.");
        Assert.True(refused > 20 && taken > 20);
        machines.CheckLogs();
    }

    [Fact]
    public void States_and_data_are_refused_where_they_do_not_belong()
    {
        using var memory = Guest.NewMemory();
        using var function = new Attachment(machines.SocketOf(1, 0), memory, byMessage: false);
        var client = function.Client;
        Refuse(Errno.EINVAL, client.TryReadMigrationData(new byte[16], out _, out var fault), fault);
        Refuse(Errno.EINVAL, client.TryWriteMigrationData(new byte[16], out fault), fault);
        Refuse(Errno.EINVAL, client.TrySetMigrationState(Error, out fault), fault);
        Refuse(Errno.EINVAL, client.TrySetMigrationState((VfioMigrationState)8, out fault), fault);
        Assert.Equal(Running, function.State);
        function.State = StopCopy;
        Refuse(Errno.EINVAL, client.TrySetMigrationState(PreCopy, out fault), fault);
        Refuse(Errno.EINVAL, client.TrySetMigrationState(PreCopyP2P, out fault), fault);
        Refuse(Errno.EINVAL, client.TryWriteMigrationData(new byte[16], out fault), fault);
        Assert.Equal(StopCopy, function.State);
        function.State = Resuming;
        Refuse(Errno.EINVAL, client.TryReadMigrationData(new byte[16], out _, out fault), fault);
        // Given nothing, it is what it was.
        function.State = Running;
        Assert.True(client.TryReset(out _));
        Assert.Equal(Running, function.State);
        var pages = Guest.NewPages();
        Refuse(Errno.EINVAL, client.TryReportDmaLogging(new(UserDevice.MemoryBase, (ulong)memory.Size), GuestMemory.PageSize, pages, out fault), fault);
        function.Dispose();
        UserDevice.Check(DeviceKind.Nic, machines.SocketOf(1, 0), byMessage: false, twinSocket: true);
        machines.CheckLogs();
    }

    private const int RecordHeader = 16;
    private const int TagAt = 12;
    private const uint ImageTag = 2;

    private static void Refuse(Errno expected, bool done, Fault fault) => Assert.Equal((false, expected), (done, fault.Errno));

    private static void SetState(Attachment[] functions, VfioMigrationState state)
    {
        foreach (var function in functions)
        {
            function.State = state;
            Assert.Equal(state, function.State);
        }
    }

    private static byte[] ReadRegisters(Attachment function)
    {
        var bytes = new byte[NicRegister.Count];
        Assert.True(function.Client.TryRead(NicRegister.RegisterBar, 0, bytes, out var fault), fault.Message);
        return bytes;
    }

    private static byte[] Record(ReadOnlySpan<byte> stream, int number)
    {
        for (; ; number--)
        {
            var size = RecordHeader + (int)BinaryPrimitives.ReadUInt64LittleEndian(stream);
            if (number == 0)
                return stream[..size].ToArray();
            stream = stream[size..];
        }
    }

    private static byte[] LastImage(ReadOnlySpan<byte> stream)
    {
        byte[] last = [];
        while (!stream.IsEmpty)
        {
            var size = RecordHeader + (int)BinaryPrimitives.ReadUInt64LittleEndian(stream);
            if (BinaryPrimitives.ReadUInt32LittleEndian(stream[TagAt..]) == ImageTag)
                last = stream[RecordHeader..size].ToArray();
            stream = stream[size..];
        }
        Assert.NotEmpty(last);
        return last;
    }

    private static byte[] Changed(byte[] bytes, int at, byte bits)
    {
        var changed = (byte[])bytes.Clone();
        changed[at] ^= bits;
        return changed;
    }

    // The state of a function at work.
    private byte[] Save(Random random)
    {
        using var guest = new Guest(machines, random, byMessage: false);
        guest.Traffic.Run(10);
        SetState(guest.Functions, StopCopy);
        return guest.Functions[0].ReadState();
    }

    /// <summary>Loads a state into a function, has it run if it was taken, and sees that the function is usable after a reset.</summary>
    /// <returns>The error by which the state was refused; null when it was taken.</returns>
    private Errno? Load(ReadOnlySpan<byte> stream, Random random)
    {
        using var memory = Guest.NewMemory();
        using var function = new Attachment(machines.SocketOf(1, 0), memory, byMessage: false);
        function.State = Resuming;
        Errno? error = null;
        while (error is null && !stream.IsEmpty)
        {
            var count = random.Next(1, stream.Length + 1);
            if (!function.Client.TryWriteMigrationData(stream[..count], out var fault))
                error = fault.Errno;
            stream = stream[count..];
        }
        if (error is null && !function.Client.TrySetMigrationState(Stop, out var refusal))
            error = refusal.Errno;
        if (error is null)
            function.State = Running;
        Assert.True(function.Client.TryReset(out var problem), problem.Message);
        Assert.Equal(Running, function.State);
        function.Dispose();
        UserDevice.Check(DeviceKind.Nic, machines.SocketOf(1, 0), byMessage: false, twinSocket: false);
        return error;
    }
}
