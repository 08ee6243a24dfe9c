using Xunit.Runner.InProc.SystemConsole;

namespace Virtbus.Tests.Trust;

/// <summary>Runs the tests, or a user of devices that the tests let die.</summary>
internal static class Program
{
    public static Task<int> Main(string[] arguments)
    {
        if (arguments is not [User.Argument])
            return ConsoleRunner.Run(arguments);
        User.Run();
        return Task.FromResult(0);
    }
}
