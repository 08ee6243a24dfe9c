using System.ComponentModel;
using System.Diagnostics;
using Virtbus.Platform;

namespace Virtbus.Cli.Text;

/// <summary>The user's terminal in raw mode: each key is ours as it is pressed. Disposing puts it back as it was.</summary>
internal sealed class RawTerminal : IAsyncDisposable
{
    private readonly string _saved;

    private RawTerminal(string saved) => _saved = saved;

    /// <summary>Makes the terminal raw. What is printed still gets its line ends made.</summary>
    /// <exception cref="VirtbusException">ENOTTY: there is no terminal that stty could change.</exception>
    public static async Task<RawTerminal> EnterAsync()
    {
        var saved = (await SttyAsync("-g")).Trim();
        await SttyAsync("raw", "-echo", "opost");
        return new RawTerminal(saved);
    }

    public async ValueTask DisposeAsync() => await SttyAsync(_saved);

    private static async Task<string> SttyAsync(params string[] arguments)
    {
        try
        {
            using var stty = Process.Start(new ProcessStartInfo("stty", ["-F", "/dev/tty", .. arguments]) { RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false })!;
            var output = await stty.StandardOutput.ReadToEndAsync();
            var error = await stty.StandardError.ReadToEndAsync();
            await stty.WaitForExitAsync();
            return stty.ExitCode == 0 ? output : throw new VirtbusException(Errno.ENOTTY, $"The terminal can't be changed: {error.Trim()}. Redirect standard input, for example from /dev/null.");
        }
        catch (Win32Exception e)
        {
            throw new VirtbusException(Errno.ENOENT, $"'stty' can't be run: {e.Message}. Install package coreutils.", e);
        }
    }
}
