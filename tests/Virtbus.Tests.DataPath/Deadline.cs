using System.Diagnostics;

namespace Virtbus.Tests.DataPath;

/// <summary>Waiting for something to become true, with a deadline and without sleeping.</summary>
internal static class Deadline
{
    internal const int Milliseconds = 20_000;

    internal static void Until(Func<bool> condition, string what)
    {
        var start = Stopwatch.GetTimestamp();
        while (!condition())
        {
            if (Stopwatch.GetElapsedTime(start).TotalMilliseconds > Milliseconds)
                Assert.Fail($"Waited {Milliseconds} ms for: {what}");
            Thread.Yield();
        }
    }
}
