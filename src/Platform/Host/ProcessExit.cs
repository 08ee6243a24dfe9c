using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Virtbus.Platform;

/// <summary>Waits for the end of a process that need not be a child of this one. The process is held by a descriptor, so its number can't come to mean another.</summary>
public sealed partial class ProcessExit : IDisposable
{
    // The same number on every architecture.
    private const long PidfdOpen = 434;
    private const short PollIn = 1;
    private readonly SafeFileHandle? _process;

    private ProcessExit(SafeFileHandle? process) => _process = process;

    /// <summary>Holds a process.</summary>
    /// <param name="pid">The process.</param>
    /// <exception cref="VirtbusException">The process can't be watched.</exception>
    public static ProcessExit Of(int pid)
    {
        var descriptor = SystemCall(PidfdOpen, pid, 0);
        if (descriptor >= 0)
            return new ProcessExit(new SafeFileHandle((nint)descriptor, ownsHandle: true));
        const int NoSuchProcess = 3;
        var errno = Marshal.GetLastPInvokeError();
        return errno == NoSuchProcess
            ? new ProcessExit(null)
            : throw new VirtbusException((Errno)errno, $"Process {pid} can't be watched: {(Errno)errno}.");
    }

    /// <summary>Waits, on this thread.</summary>
    /// <param name="atMost">The longest time.</param>
    /// <returns>True when the process has ended.</returns>
    public bool Wait(TimeSpan atMost)
    {
        if (_process is null)
            return true;
        var poll = new PollDescriptor { Descriptor = (int)_process.DangerousGetHandle(), Events = PollIn };
        var ready = Poll(ref poll, 1, (int)atMost.TotalMilliseconds);
        GC.KeepAlive(_process);
        return ready > 0;
    }

    /// <summary>Lets the process go.</summary>
    public void Dispose() => _process?.Dispose();

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial long SystemCall(long number, long first, long second);

    [LibraryImport("libc", EntryPoint = "poll", SetLastError = true)]
    private static partial int Poll(ref PollDescriptor descriptors, nuint count, int timeout);

    [StructLayout(LayoutKind.Sequential)]
    private struct PollDescriptor
    {
        public int Descriptor;
        public short Events;
        public short Returned;
    }
}
