using System.Diagnostics;

namespace Virtbus.Tests;

/// <summary>The types that a call came through, outermost first, as a stack has them.</summary>
internal static class Hops
{
    /// <summary>Those of Virtbus that the calling method was reached by, each once in a row.</summary>
    internal static IReadOnlyList<string> Here()
    {
        var hops = new List<string>();
        foreach (var frame in new StackTrace(1).GetFrames().Reverse())
        {
            if (frame.GetMethod()?.DeclaringType is not { Namespace: { } space } type || !space.StartsWith("Virtbus.", StringComparison.Ordinal))
                continue;
            // What the compiler makes of an asynchronous method, or of a lambda, is the type's that has it.
            while (type.Name.StartsWith('<') && type.DeclaringType is { } outer)
                type = outer;
            if (hops.Count == 0 || hops[^1] != type.Name)
                hops.Add(type.Name);
        }

        return hops;
    }

    /// <summary>Asserts that hops are named in this order, whatever lies between them.</summary>
    internal static void AreInOrder(IReadOnlyList<string> hops, params ReadOnlySpan<string> expected)
    {
        var at = 0;
        foreach (var name in expected)
        {
            while (at < hops.Count && hops[at] != name)
                at++;
            Assert.True(at < hops.Count, $"no {name} in its place in: {string.Join(" -> ", hops)}");
        }
    }
}
