using System.Diagnostics;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
using Virtbus.Platform;

namespace Virtbus.Tests;

/// <summary>What a hostile peer does with an eventfd that it shares.</summary>
internal static class Blocking
{
    private static readonly TimeSpan _patience = TimeSpan.FromSeconds(60);

    /// <summary>Fills the counter to its limit, then lets writes to it wait.</summary>
    internal static void Fill(EventFd eventFd)
    {
        Assert.SkipUnless(KernelSignal.IsThere, "the kernel has no Linux AIO, or forbids it: a full eventfd stalls who signals it");
        var number = eventFd.Descriptor.Number;
        using var handle = new SafeFileHandle(number, ownsHandle: false);
        Span<byte> most = stackalloc byte[8];
        BitConverter.TryWriteBytes(most, ulong.MaxValue - 1);
        var since = Stopwatch.GetTimestamp();
        while (true)
        {
            eventFd.TryRead(out _);
            try
            {
                RandomAccess.Write(handle, most, 0);
                break;
            }
            catch (IOException) when (Stopwatch.GetElapsedTime(since) < _patience)
            {
                // EAGAIN: the device signalled between the two.
            }
        }

        _ = FileControl(number, 4, 0);
    }

    [DllImport("libc", EntryPoint = "fcntl")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern int FileControl(int fd, int command, nint argument);
}
