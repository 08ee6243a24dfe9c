namespace Virtbus.Tests;

/// <summary>
/// What tests before this one left to the collector goes before a test counts what the process holds, and what the process keeps once it has it comes;
/// neither in the middle of that.
/// </summary>
internal static class Leftovers
{
    /// <summary>Lets go of it. Not between two counts: what this program loses to the collector is a leak.</summary>
    internal static void Clear()
    {
        // The shared poll threads start when they are needed, and stay.
        for (var i = 0; i < Virtbus.Platform.PollThreads.Shared.Count; i++)
            _ = Virtbus.Platform.PollThreads.Shared[i];
        GC.Collect();
        GC.WaitForPendingFinalizers();
    }
}
