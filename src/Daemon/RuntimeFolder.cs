using System.Text;
using System.Text.Json;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Daemon;

/// <summary>The folder of one fabric: its control socket, its lock, its log and the sockets of its devices.</summary>
internal sealed class RuntimeFolder
{
    // sun_path of sockaddr_un, with its closing NUL.
    private const int MaxSocketPath = 107;
    private const UnixFileMode Private = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;

    private RuntimeFolder(string path) => Path = path;

    /// <summary>The absolute path.</summary>
    public string Path { get; }

    /// <summary>The control interface's socket.</summary>
    public string ControlSocket => System.IO.Path.Combine(Path, "control.sock");

    /// <summary>The socket by which a mount of the tree is handed over.</summary>
    public string MountSocket => System.IO.Path.Combine(Path, "mount.sock");

    /// <summary>The file whose lock the running daemon holds, with what it says of itself.</summary>
    public string LockFile => System.IO.Path.Combine(Path, "lock");

    /// <summary>Where a detached daemon logs.</summary>
    public string LogFile => System.IO.Path.Combine(Path, "daemon.log");

    /// <summary>Where the definitions of functions last, over the end of the daemon.</summary>
    public string StateFolder => System.IO.Path.Combine(Path, "state");

    /// <summary>The folder that the environment names: VIRTBUS_RUNTIME, else one of the user's own. Nothing is made or checked.</summary>
    public static RuntimeFolder FromEnvironment()
    {
        if (Environment.GetEnvironmentVariable("VIRTBUS_RUNTIME") is { Length: > 0 } chosen)
            return new RuntimeFolder(System.IO.Path.GetFullPath(chosen));
        if (Environment.GetEnvironmentVariable("XDG_RUNTIME_DIR") is { Length: > 0 } user)
            return new RuntimeFolder(System.IO.Path.Combine(System.IO.Path.GetFullPath(user), "virtbus"));
        return new RuntimeFolder(System.IO.Path.Combine(System.IO.Path.GetTempPath(), $"virtbus-{FileOwner.CurrentUser}"));
    }

    /// <summary>Makes the folder if it is not there, and refuses one that others may enter.</summary>
    /// <exception cref="VirtbusException">EPERM: another owner or a looser mode; EEXIST: something else is where its files go; ENOTDIR; ENAMETOOLONG: no socket fits in it; else the host's error.</exception>
    public void Prepare()
    {
        if (Encoding.UTF8.GetByteCount(ControlSocket) > MaxSocketPath)
            throw new VirtbusException(Errno.ENAMETOOLONG, $"Runtime folder {Path} has too long a path: a socket's path has at most {MaxSocketPath} bytes. Set VIRTBUS_RUNTIME to a shorter one.");
        if (File.Exists(Path))
            throw new VirtbusException(Errno.ENOTDIR, $"Runtime folder {Path} is a file. Remove it or set VIRTBUS_RUNTIME to a folder.");
        try
        {
            // With a mode, the call leaves a folder that is there as it is.
            Directory.CreateDirectory(Path, Private);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new VirtbusException(Errno.EACCES, $"Runtime folder {Path} can't be made: {e.Message} Set VIRTBUS_RUNTIME to a folder of your own.", e);
        }
        Check();
        // A link would have another file written, and a pipe would never open.
        RequireFile(LockFile);
        RequireFile(LogFile);
    }

    /// <summary>Refuses a folder that others may enter.</summary>
    /// <exception cref="VirtbusException">EPERM: another owner or a looser mode.</exception>
    public void Check()
    {
        var owner = FileOwner.Of(Path);
        if (owner != FileOwner.CurrentUser)
            throw new VirtbusException(Errno.EPERM, $"Runtime folder {Path} belongs to user {owner}, not to user {FileOwner.CurrentUser} who runs this. Set VIRTBUS_RUNTIME to a folder of your own.");
        var info = new DirectoryInfo(Path);
        if (info.LinkTarget is { } target)
            throw new VirtbusException(Errno.EPERM, $"Runtime folder {Path} is a link to {target}. Set VIRTBUS_RUNTIME to the folder itself.");
        if ((info.UnixFileMode | Private) != Private)
            throw new VirtbusException(Errno.EPERM, $"Runtime folder {Path} has mode {Convert.ToString((int)info.UnixFileMode, 8)}, so others can enter it. Use: chmod 700 {Path}");
    }

    /// <summary>Takes the folder for this process, and listens on its control socket. What a dead daemon left in it is taken over.</summary>
    /// <param name="holder">What this daemon says of itself.</param>
    /// <exception cref="VirtbusException">
    /// EBUSY: another daemon holds it; the message says who. EADDRINUSE: a live process listens on the control socket, though it does not hold
    /// the folder (any more). EEXIST: something else is in the socket's place. Else what the host says, such as ENOSPC.
    /// </exception>
    public RuntimeLock Acquire(LockHolder holder)
    {
        var file = OpenLock();
        try
        {
            Lock(file);
            // Under the lock, so that of two that come at a time one alone sees to what is left there.
            var control = UnixListener.Listen(ControlSocket);
            try
            {
                Write(file, holder);
                return new RuntimeLock(file, control);
            }
            catch
            {
                control.Dispose();
                throw;
            }
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>What the last daemon of the folder said of itself; null when it ended in order or there was none.</summary>
    public LockHolder? ReadHolder()
    {
        try
        {
            return File.Exists(LockFile) && File.ReadAllBytes(LockFile) is { Length: > 0 } bytes ? JsonSerializer.Deserialize(bytes, ApiJson.Default.LockHolder) : null;
        }
        catch (Exception e) when (e is IOException or JsonException or UnauthorizedAccessException)
        {
            // The holder is just writing it, or someone else did.
            return null;
        }
    }

    private FileStream OpenLock()
    {
        try
        {
            return new FileStream(LockFile, new FileStreamOptions
            {
                Mode = FileMode.OpenOrCreate,
                Access = FileAccess.ReadWrite,
                // .NET's own lock is shared, so that others can read who holds the folder; the lock that counts is the record lock.
                Share = FileShare.ReadWrite | FileShare.Delete,
                UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
                // Nothing is left to be written when it is closed.
                BufferSize = 0,
            });
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Refused(e);
        }
    }

    private void Lock(FileStream file)
    {
        try
        {
            file.Lock(0, 1);
        }
        catch (IOException e)
        {
            throw new VirtbusException(Errno.EBUSY, $"{Describe(ReadHolder())} has the runtime folder {Path}. Take it down with 'virtbus down', or set VIRTBUS_RUNTIME to another folder.", e);
        }
    }

    private void Write(FileStream file, LockHolder holder)
    {
        try
        {
            file.SetLength(0);
            file.Write([.. JsonSerializer.SerializeToUtf8Bytes(holder, ApiJson.Default.LockHolder), (byte)'\n']);
        }
        catch (IOException e)
        {
            throw Refused(e);
        }
    }

    private VirtbusException Refused(Exception cause) =>
        new(Errno.EIO, $"Runtime folder {Path} takes no lock: {cause.Message.TrimEnd('.')}. Make room there, or set VIRTBUS_RUNTIME to another folder.", cause);

    private static void RequireFile(string path)
    {
        if (FileStatus.TryGet(path, out var found, out _) && found.Kind != FileKind.Regular)
            throw new VirtbusException(Errno.EEXIST, $"{path} is no file, and the fabric writes one there. Remove it, or set VIRTBUS_RUNTIME to another folder.");
    }

    private static string Describe(LockHolder? holder) =>
        holder is null ? "Another fabric" : $"A fabric of process {holder.Pid}, up since {holder.Since:yyyy-MM-dd HH:mm:ss} UTC with {holder.Manifest},";
}
