using Virtbus.Vm;
using Xunit.Runner.InProc.SystemConsole;

namespace Virtbus.Tests.Vm;

/// <summary>Runs the tests, or, for the test that kills a guest's parent, a guest that never ends.</summary>
internal static class Program
{
    public const string RunGuest = "--run-guest";

    public static async Task<int> Main(string[] arguments)
    {
        if (arguments is not [RunGuest])
            return await ConsoleRunner.Run(arguments);
        VmRunner runner = new(new VmOptions { Command = ["sleep", "1000"] });
        Task<int> run = runner.RunAsync(CancellationToken.None);
        await Task.WhenAny(run, runner.Up);
        Console.WriteLine(runner.QemuProcessId);
        return await run;
    }
}
