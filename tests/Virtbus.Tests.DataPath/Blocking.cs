using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Virtbus.Platform;

namespace Virtbus.Tests.DataPath;

/// <summary>What a hostile peer does with an eventfd that it shares.</summary>
internal static class Blocking
{
    /// <summary>Fills the counter to its limit, then lets writes to it wait.</summary>
    internal static void Fill(EventFd eventFd)
    {
        var number = eventFd.Descriptor.Number;
        eventFd.TryRead(out _);
        using var handle = new SafeFileHandle(number, ownsHandle: false);
        Span<byte> most = stackalloc byte[8];
        BitConverter.TryWriteBytes(most, ulong.MaxValue - 1);
        RandomAccess.Write(handle, most, 0);
        _ = FileControl(number, 4, 0);
    }

    [DllImport("libc", EntryPoint = "fcntl")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int FileControl(int fd, int command, nint argument);
}
