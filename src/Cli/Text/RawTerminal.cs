using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Virtbus.Platform;

namespace Virtbus.Cli.Text;

/// <summary>The user's terminal in raw mode: each key is ours as it is pressed. Disposing puts it back as it was, as does a signal that ends us.</summary>
internal sealed class RawTerminal : IDisposable
{
    private readonly TerminalSettings _saved;
    private readonly PosixSignalRegistration[] _signals;

    private RawTerminal(TerminalSettings saved)
    {
        _saved = saved;
        _signals = [.. new[] { PosixSignal.SIGTERM, PosixSignal.SIGHUP, PosixSignal.SIGINT, PosixSignal.SIGQUIT }.Select(s => PosixSignalRegistration.Create(s, _ => saved.Apply()))];
    }

    /// <summary>Makes the terminal raw.</summary>
    /// <exception cref="VirtbusException">ENOTTY: standard input is none.</exception>
    public static RawTerminal Enter()
    {
        var saved = TerminalSettings.Read();
        var terminal = new RawTerminal(saved);
        saved.ToRaw().Apply();
        return terminal;
    }

    /// <summary>What is typed. The console's own stream would read whole lines, with an echo of its own.</summary>
    public static Stream OpenKeys() => new FileStream(new SafeFileHandle(0, ownsHandle: false), FileAccess.Read, bufferSize: 0);

    public void Dispose()
    {
        _saved.Apply();
        foreach (var signal in _signals)
            signal.Dispose();
    }
}
