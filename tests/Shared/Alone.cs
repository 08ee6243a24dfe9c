
namespace Virtbus.Tests;

/// <summary>Tests that count memory or descriptors of the whole process run when no other test does.</summary>
[CollectionDefinition(nameof(Alone), DisableParallelization = true)]
public sealed class Alone
{
    internal static int Descriptors()
    {
        // What earlier tests left to the collector goes first.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        return Directory.GetFiles("/proc/self/fd").Length;
    }
}
