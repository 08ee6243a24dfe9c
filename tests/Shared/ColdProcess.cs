
namespace Virtbus.Tests;

/// <summary>
/// A process of its own for a test that reads stacks. In one that has run other tests, the compiler has merged calls that are made often into their
/// callers, and a call that is a method's last step has replaced it: hops are missing then. In the process of its own no method is optimised.
/// </summary>
internal static class ColdProcess
{
    private const string Mark = "VIRTBUS_TEST_IS_COLD";

    /// <summary>Whether this is that process and the test goes on; otherwise it was run in one, and passed there.</summary>
    internal static bool IsHere()
    {
        if (Environment.GetEnvironmentVariable(Mark) is not null)
            return true;
        var method = TestContext.Current.TestMethod!;
        var program = Path.Combine(AppContext.BaseDirectory, typeof(ColdProcess).Assembly.GetName().Name!);
        var (output, errors, code) = Programs.Run(
            "env", Mark + "=1", "DOTNET_JITMinOpts=1", program, "-noLogo", "-noColor", "-method", $"{method.TestClass.TestClassName}.{method.MethodName}");
        Assert.True(code == 0 && output.Contains("Total: 1, ", StringComparison.Ordinal), output + errors);
        return false;
    }
}
