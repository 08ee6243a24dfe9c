using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// Keeps a disk's cache mode over daemons: an empty file NAME.write-through in the runtime folder says that the disk writes through. That it is
/// there or not is all that it says, so no end of the program leaves half of it.
/// </summary>
internal sealed class CacheModeFile : ICacheModeStore
{
    private readonly string _folder;
    private readonly string _path;
    private readonly Func<FileDescriptor, Errno> _sync;
    private volatile bool _isWriteback;

    /// <summary>Reads what is kept.</summary>
    /// <param name="folder">The runtime folder.</param>
    /// <param name="disk">The disk's name.</param>
    /// <param name="sync">What makes a file or folder durable, for tests; fdatasync when left out.</param>
    public CacheModeFile(string folder, string disk, Func<FileDescriptor, Errno>? sync = null)
    {
        _folder = folder;
        _sync = sync ?? (static file => file.SyncData());
        _path = Path.Combine(folder, disk + ".write-through");
        _isWriteback = !File.Exists(_path);
    }

    public bool IsWriteback => _isWriteback;

    public bool TryKeep(bool writeback, out Fault fault)
    {
        fault = Fault.None;
        // What is kept never says write-back while a driver relies on write-through; so a failure is told before anything counts.
        var error = writeback ? Remove() : Make();
        if (error != Errno.None)
        {
            fault = new Fault(error, "the cache mode can't be kept in the runtime folder");
            return false;
        }
        _isWriteback = writeback;
        return true;
    }

    private Errno Make()
    {
        var error = FileDescriptor.TryCreate(_path, out var file);
        if (file is null)
            return error;
        using (file)
            error = _sync(file);
        return error == Errno.None ? FileDescriptor.SyncFolder(_folder, _sync) : error;
    }

    private Errno Remove()
    {
        var error = FileDescriptor.Unlink(_path);
        if (error is not (Errno.None or Errno.ENOENT))
            return error;
        error = FileDescriptor.SyncFolder(_folder, _sync);
        // Refused, so the driver goes on relying on write-through: the next daemon has to find that.
        if (error != Errno.None)
            _ = Make();
        return error;
    }
}
