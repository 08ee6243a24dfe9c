using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Virtbus.Platform;

/// <summary>What a process does to go on without the terminal that started it.</summary>
public static partial class ProcessSession
{
    /// <summary>Makes this process the leader of a session of its own, so that no terminal's signals reach it.</summary>
    /// <exception cref="VirtbusException">EPERM: the process leads a process group already.</exception>
    public static void Begin()
    {
        if (SetSid() < 0)
        {
            var errno = (Errno)Marshal.GetLastPInvokeError();
            throw new VirtbusException(errno, $"The process can't have a session of its own: {errno}. Start it from another process.");
        }
    }

    /// <summary>Points standard input at nothing, and standard output and error at the end of a file.</summary>
    /// <param name="outputPath">A file that exists.</param>
    /// <exception cref="VirtbusException">A descriptor can't be replaced.</exception>
    public static void RedirectStandardStreams(string outputPath)
    {
        using (var nothing = File.OpenHandle("/dev/null", FileMode.Open, FileAccess.Read, FileShare.ReadWrite))
            Replace(nothing, 0);
        // O_APPEND, which FileMode.Append of a handle does not set: the log's own writer appends to the same file.
        const int WriteOnly = 1, Append = 0x400, CloseOnExec = 0x80000;
        using var output = new SafeFileHandle(Open(outputPath, WriteOnly | Append | CloseOnExec), ownsHandle: true);
        Replace(output, 1);
        Replace(output, 2);
    }

    private static void Replace(SafeFileHandle with, int descriptor)
    {
        if (with.IsInvalid || Dup2(with, descriptor) < 0)
        {
            var errno = (Errno)Marshal.GetLastPInvokeError();
            throw new VirtbusException(errno, $"Standard stream {descriptor} can't be redirected: {errno}.");
        }
    }

    [LibraryImport("libc", EntryPoint = "setsid", SetLastError = true)]
    private static partial int SetSid();

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "dup2", SetLastError = true)]
    private static partial int Dup2(SafeFileHandle from, int to);
}
