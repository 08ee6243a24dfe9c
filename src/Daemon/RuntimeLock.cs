namespace Virtbus.Daemon;

/// <summary>The hold of a running daemon on its runtime folder. Ends with the process, however that ends.</summary>
internal sealed class RuntimeLock(RuntimeFolder folder, FileStream file) : IDisposable
{
    /// <summary>Takes the control socket away and frees the folder for another daemon.</summary>
    public void Dispose()
    {
        File.Delete(folder.ControlSocket);
        file.SetLength(0);
        file.Dispose();
    }
}
