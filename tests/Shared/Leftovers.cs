namespace Virtbus.Tests;

/// <summary>What tests before this one left to the collector: it goes before a test counts what the process holds, and not in the middle of that.</summary>
internal static class Leftovers
{
    /// <summary>Lets go of it. Not between two counts: what this program loses to the collector is a leak.</summary>
    internal static void Clear()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
    }
}
