using System.Globalization;
using Xunit.Runner.InProc.SystemConsole;

namespace Virtbus.Tests.Trust;

/// <summary>Runs the tests, a user of devices that the tests let die, or a churn of a length of one's own.</summary>
internal static class Program
{
    private const string ChurnArgument = "--churn";

    public static async Task<int> Main(string[] arguments)
    {
        switch (arguments)
        {
            case [User.Argument]:
                User.Run();
                return 0;
            case [ChurnArgument, var seconds, .. var rest]:
                return await ChurnAsync(Number(seconds), rest.Length == 0 ? 1 : Number(rest[0]));
            default:
                return await ConsoleRunner.Run(arguments);
        }
    }

    private static async Task<int> ChurnAsync(int seconds, int seed)
    {
        await using var churn = new Churn(TimeSpan.FromSeconds(seconds), seed, Console.WriteLine);
        var failures = await churn.RunAsync();
        foreach (var failure in failures)
            await Console.Error.WriteLineAsync(failure);
        return failures.Count == 0 ? 0 : 1;
    }

    private static int Number(string text) => int.Parse(text, CultureInfo.InvariantCulture);
}
