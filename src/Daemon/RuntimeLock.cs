using Virtbus.Platform;

namespace Virtbus.Daemon;

/// <summary>The hold of a running daemon on its runtime folder. Ends with the process, however that ends.</summary>
/// <param name="file">The file that is locked.</param>
/// <param name="control">The control interface's socket.</param>
internal sealed class RuntimeLock(FileStream file, UnixListener control) : IDisposable
{
    /// <summary>The control interface's socket. It listens; who connects is answered when somebody takes connections.</summary>
    public UnixListener Control => control;

    /// <summary>
    /// Takes the control socket away and frees the folder for another daemon. One that has the folder already, since somebody removed the files
    /// of this one, keeps what it has: a socket file is removed when it is this one's own, and the lock file is written to as it was opened.
    /// </summary>
    public void Dispose()
    {
        control.Dispose();
        file.SetLength(0);
        file.Dispose();
    }
}
