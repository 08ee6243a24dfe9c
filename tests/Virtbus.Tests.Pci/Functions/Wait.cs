using System.Diagnostics;

namespace Virtbus.Tests.Pci.Functions;

/// <summary>Waiting for something to become true, with a deadline and without sleeping.</summary>
internal static class Wait
{
    private const int Milliseconds = 20_000;

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

    internal static void For(WaitHandle handle, string what) => Assert.True(handle.WaitOne(Milliseconds), $"Waited {Milliseconds} ms for: {what}");
}
