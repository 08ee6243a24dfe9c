using Virtbus.Platform;
using static Virtbus.Platform.VfioMigrationState;

namespace Virtbus.Tests.Trust;

/// <summary>What a VMM does to bring a guest with its functions from one machine to another.</summary>
internal static class VirtioMove
{
    /// <summary>Moves a guest that is at work. What it had given to its functions and they had not done comes to the others.</summary>
    /// <param name="guest">The guest.</param>
    /// <param name="from">Where it is.</param>
    /// <param name="to">Where it goes.</param>
    /// <param name="byMessage">Whether functions there reach its memory by messages.</param>
    /// <param name="random">How states are cut.</param>
    /// <param name="output">Told of what went over.</param>
    public static async Task RunAsync(VirtioGuest guest, VirtioMachine from, VirtioMachine to, bool byMessage, Random random, ITestOutputHelper output)
    {
        using var memory = VirtioGuest.NewMemory();
        var targets = guest.Prepare(to, memory, byMessage);
        SetState(targets, Resuming);
        foreach (var function in guest.Functions)
            function.StartLog(guest.Memory);
        var pages = VirtioGuest.NewPages();
        Array.Fill(pages, ulong.MaxValue);
        var copied = new List<int> { guest.Memory.CopyDirty(pages, memory) };
        for (var round = 0; round < 3; round++)
        {
            guest.Run(20);
            copied.Add(CopyMemory());
        }

        // From here on no function reaches another one, and so none is reached when it stands still.
        guest.PauseOutside();
        guest.Turn();
        SetState(guest.Functions, RunningP2P);
        guest.PostInVain();
        // The guest stands still, and then its functions.
        SetState(guest.Functions, Stop);
        SetState(guest.Functions, StopCopy);
        guest.SeeSentArrive();
        var states = guest.Functions.Select(static f => f.ReadState()).ToArray();
        for (var i = 0; i < targets.Length; i++)
            targets[i].WriteState(states[i], random);
        copied.Add(CopyMemory());
        await to.CopyDiskAsync(from);
        output.WriteLine($"{guest}; states of {string.Join(" and ", states.Select(static s => s.Length))} bytes; pages copied: {string.Join(' ', copied)}");

        // All of it is there, to the byte, and functions that stand still let nothing change.
        var image = guest.Memory.Copy();
        Assert.True(image.AsSpan().SequenceEqual(memory.Copy()), "The memories differ.");
        SetState(targets, Stop);
        for (var i = 0; i < targets.Length; i++)
        {
            targets[i].State = StopCopy;
            Assert.Equal(states[i], targets[i].ReadState());
            targets[i].State = Stop;
            Assert.Equal(VirtioUser.Describe(guest.Functions[i]), VirtioUser.Describe(targets[i]));
        }

        guest.SeeNothingDone();
        Assert.True(image.AsSpan().SequenceEqual(guest.Memory.Copy()), "A function that stands still wrote to memory.");
        Assert.True(image.AsSpan().SequenceEqual(memory.Copy()), "A function that does not run yet wrote to memory.");
        foreach (var function in guest.Functions)
            function.StopLog();
        guest.MoveTo(to, targets, memory);
        SetState(targets, RunningP2P);
        SetState(targets, Running);
        for (var vector = 1; vector <= 2; vector++)
            Assert.True(targets[0].WaitForSignal(vector), $"interrupt {vector} did not come");
        Assert.True(targets[1].WaitForSignal(1), "the disk's interrupt did not come");

        int CopyMemory()
        {
            var dirty = VirtioGuest.NewPages();
            foreach (var function in guest.Functions)
                function.ReportLog(guest.Memory, dirty);
            return guest.Memory.CopyDirty(dirty, memory);
        }
    }

    public static void SetState(Attachment[] functions, VfioMigrationState state)
    {
        foreach (var function in functions)
        {
            function.State = state;
            Assert.Equal(state, function.State);
        }
    }
}
