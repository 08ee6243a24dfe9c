using System.Diagnostics;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>The host's end of a guest's serial port: <c>virtbus console</c> with pipes.</summary>
internal sealed class ConsoleClient(TestFabric fabric, string port)
{
    private readonly Process _console = fabric.Start("console", port);

    /// <summary>Reads a line that the guest says.</summary>
    public async Task<string> HearAsync()
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        return await _console.StandardOutput.ReadLineAsync(deadline.Token)
            ?? throw new EndOfStreamException("The line was hung up: " + await _console.StandardError.ReadToEndAsync(deadline.Token));
    }

    /// <summary>Says a line to the guest.</summary>
    public async Task SayAsync(string line)
    {
        await _console.StandardInput.WriteAsync(line + "\n");
        await _console.StandardInput.FlushAsync();
    }
}
