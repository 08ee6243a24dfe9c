using Virtbus.Vm;
using Xunit.Runner.InProc.SystemConsole;

namespace Virtbus.Tests.Vm;

/// <summary>Runs the tests, or, for the tests that need another process, a guest that never ends or a shell.</summary>
internal static class Program
{
    public const string RunGuest = "--run-guest";
    public const string RunShell = "--run-shell";

    public static async Task<int> Main(string[] arguments)
    {
        if (arguments is [RunShell])
            return await new VmRunner(new VmOptions()).RunAsync(CancellationToken.None);
        if (arguments is not [RunGuest])
            return await ConsoleRunner.Run(arguments);
        VmRunner runner = new(new VmOptions { Command = ["sleep", "1000"] });
        Task<int> run = runner.RunAsync(CancellationToken.None);
        await Task.WhenAny(run, runner.Up);
        Console.WriteLine(runner.QemuProcessId);
        return await run;
    }
}
