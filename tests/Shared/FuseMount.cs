using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Virtbus.Platform;

namespace Virtbus.Tests;

/// <summary>A mount whose root is a regular file, served by the test.</summary>
internal sealed class FuseMount : IDisposable
{
    // MNT_FORCE ends whatever waits for the server; MNT_DETACH takes the mount away though it is in use.
    private const int ForceAndDetach = 3;
    private const int HeaderSize = 40;
    private readonly FileDescriptor _connection;
    private readonly Thread _server;

    private FuseMount(FileDescriptor connection, string path, Answer answer)
    {
        _connection = connection;
        Path = path;
        _server = new Thread(() => Serve(answer)) { IsBackground = true };
        _server.Start();
    }

    /// <summary>What a request is answered with.</summary>
    /// <param name="command">Its number, FUSE_*.</param>
    /// <param name="body">What it carries.</param>
    /// <param name="error">The errno, where there is no answer.</param>
    /// <returns>The answer's body; null with no error for no answer at all.</returns>
    internal delegate byte[]? Answer(uint command, ReadOnlySpan<byte> body, out Errno error);

    internal string Path { get; }

    /// <summary>Mounts one, or says that this user may not by skipping the test.</summary>
    internal static FuseMount Make(Answer answer)
    {
        var connection = FileDescriptor.TryOpen("/dev/fuse", writable: true, out _);
        Assert.SkipWhen(connection is null, "no /dev/fuse for this user");
        var path = System.IO.Path.GetTempFileName();
        // The file itself is the root, so there is nothing to look up.
        var mounted = Mount("virtbus-test", path, "fuse", 0, $"fd={connection!.Number},rootmode=100000,user_id=0,group_id=0") == 0;
        if (!mounted)
            File.Delete(path);
        Assert.SkipUnless(mounted, "this user may not mount");
        return new FuseMount(connection, path, answer);
    }

    /// <summary>Takes it away; what waits for an answer ends with an error.</summary>
    internal void Unmount() => _ = Unmount(Path, ForceAndDetach);

    public void Dispose()
    {
        Unmount();
        _server.Ends("the file's server");
        _connection.Dispose();
        File.Delete(Path);
    }

    private void Serve(Answer answer)
    {
        using var stream = new FileStream(new SafeFileHandle(_connection.Number, ownsHandle: false), FileAccess.ReadWrite, bufferSize: 0);
        var request = new byte[1 << 20];
        try
        {
            int length;
            while ((length = stream.Read(request)) > 0)
            {
                var command = BinaryPrimitives.ReadUInt32LittleEndian(request.AsSpan(4));
                var body = answer(command, request.AsSpan(HeaderSize, length - HeaderSize), out var error);
                if (body is not null || error != Errno.None)
                    stream.Write([.. BitConverter.GetBytes(16 + (body?.Length ?? 0)), .. BitConverter.GetBytes(-(int)error), .. request.AsSpan(8, 8), .. body ?? []]);
            }
        }
        catch (IOException)
        {
            // ENODEV: unmounted.
        }
    }

    [DllImport("libc", EntryPoint = "mount", SetLastError = true, CharSet = CharSet.Ansi, BestFitMapping = false, ThrowOnUnmappableChar = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Mount(string source, string target, string kind, nuint flags, string data);

    [DllImport("libc", EntryPoint = "umount2", CharSet = CharSet.Ansi, BestFitMapping = false, ThrowOnUnmappableChar = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int Unmount(string target, int flags);
}
