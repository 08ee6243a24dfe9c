using System.Diagnostics;

namespace Virtbus.Tests;

/// <summary>Waits that end, and say what they waited for: a test that hangs tells nothing, and keeps those behind it from running.</summary>
internal static class Patience
{
    /// <summary>How long at most.</summary>
    internal static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    /// <summary>Waits for the end of a thread. It has to be one in the background, or the program waits for it all the same.</summary>
    internal static void Ends(this Thread thread, string what)
    {
        if (!thread.Join(Limit))
            throw Late(what);
    }

    /// <summary>Waits until it is set.</summary>
    internal static void Comes(this ManualResetEventSlim signal, string what)
    {
        if (!signal.Wait(Limit))
            throw Late(what);
    }

    /// <summary>Waits for a task where nothing can be awaited.</summary>
    /// <param name="task">The task.</param>
    /// <param name="what">What it does.</param>
    /// <param name="log">What else may say why it does not end.</param>
    internal static void Ends(this Task task, string what, Func<string>? log = null) => task.EndsAsync(what, log).GetAwaiter().GetResult();

    /// <summary>As the other one.</summary>
    internal static async Task EndsAsync(this Task task, string what, Func<string>? log = null)
    {
        // By the first that ends, and not by an exception: the task may fail with a time-out of its own.
        using var over = new CancellationTokenSource();
        if (await Task.WhenAny(task, Task.Delay(Limit, over.Token)).ConfigureAwait(false) != task)
            throw Late(log is null ? what : $"{what} in\n{log()}");
        await over.CancelAsync().ConfigureAwait(false);
        await task.ConfigureAwait(false);
    }

    /// <summary>Waits for the end of a program whose output nobody has to read; kills one that does not end.</summary>
    internal static void Ends(this Process process)
    {
        if (process.WaitForExit(Limit))
            return;
        process.Kill(entireProcessTree: true);
        throw Late($"the end of '{process.StartInfo.FileName}'");
    }

    /// <summary>As the other one.</summary>
    internal static async Task EndsAsync(this Process process)
    {
        using var deadline = new CancellationTokenSource(Limit);
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

    private static TimeoutException Late(string what) => new($"Waited {Limit.TotalSeconds} s for {what}.");
}
