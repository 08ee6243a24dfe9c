using System.Diagnostics;
using Virtbus.Testing;

namespace Virtbus.Tests;

/// <summary>Other programs that a test runs, none of which it waits for without an end.</summary>
internal static class Programs
{
    /// <summary>Waits for the end of a program whose output nobody has to read; kills one that does not end.</summary>
    internal static void Ends(this Process process)
    {
        if (process.WaitForExit(Deadline.Limit))
            return;
        process.Kill(entireProcessTree: true);
        throw Late($"the end of '{process.StartInfo.FileName}'");
    }

    /// <summary>As the other one.</summary>
    internal static async Task EndsAsync(this Process process)
    {
        using var deadline = new CancellationTokenSource(Deadline.Limit);
        try
        {
            await process.WaitForExitAsync(deadline.Token);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            throw Late($"the end of '{process.StartInfo.FileName}'");
        }
    }

    /// <summary>Runs a program to its end, whatever it writes.</summary>
    /// <returns>What it wrote to its output and to its error output, and how it ended.</returns>
    /// <exception cref="System.ComponentModel.Win32Exception">There is no such program.</exception>
    internal static (string Output, string Errors, int Code) Run(string program, params string[] arguments)
    {
        using var process = Process.Start(
            new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false })!;
        // Both at once: a program that has filled the pipe of the one that is not read waits for ever.
        var texts = Task.WhenAll(process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        try
        {
            texts.Ends($"the end of what '{program}' writes");
            process.Ends();
        }
        catch (TimeoutException)
        {
            process.Kill(entireProcessTree: true);
            throw;
        }

        return (texts.Result[0], texts.Result[1], process.ExitCode);
    }

    private static TimeoutException Late(string what) => new($"Waited {Deadline.Limit.TotalSeconds} s for {what}.");
}
