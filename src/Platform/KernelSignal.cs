using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>
/// Adds one to an eventfd as the kernel's own drivers do, which never waits. A write does when the counter is full and the file blocking, and
/// both are in the hands of the peer that shares the eventfd. The kernel adds for a program that has a read done by Linux AIO and names
/// an eventfd to be told on (IOCB_FLAG_RESFD in io_submit(2)); the read here is one of nothing.
/// </summary>
internal static unsafe class KernelSignal
{
    private const int Places = 128;
    private const int TakenAtOnce = 32;
    private const int Tries = 64;
    private const ushort IOCB_CMD_PREAD = 0;
    private const uint IOCB_FLAG_RESFD = 1;

    private static readonly (nint Setup, nint GetEvents, nint Submit) _calls = RuntimeInformation.ProcessArchitecture switch
    {
        Architecture.X64 => (206, 208, 209),
        Architecture.Arm64 or Architecture.RiscV64 or Architecture.LoongArch64 => (0, 4, 2),
        _ => default,
    };

    // Both for the process's life.
    private static readonly FileDescriptor? _nothing = TryMakeFile();
    private static readonly nint _context = TryMakeContext();

    /// <summary>Whether the host lets this process do it.</summary>
    internal static bool IsThere => _context != 0;

    /// <summary>Adds one; a counter at its limit stays there. Only where <see cref="IsThere"/>.</summary>
    /// <param name="eventFd">The eventfd.</param>
    /// <returns>False when the kernel has no memory for it.</returns>
    internal static bool TryAdd(FileDescriptor eventFd)
    {
        var held = false;
        try
        {
            eventFd.DangerousAddRef(ref held);
            var block = new IoControlBlock
            {
                Opcode = IOCB_CMD_PREAD, Fd = (uint)_nothing!.Number, Flags = IOCB_FLAG_RESFD, Signal = (uint)eventFd.Number,
            };
            return TrySubmit(&block);
        }
        finally
        {
            if (held)
                eventFd.DangerousRelease();
        }
    }

    private static bool TrySubmit(IoControlBlock* block)
    {
        // SAFETY: the block is a local of the caller; the kernel reads it, and writes its key, during the call only: the read is done at once.
        for (var tries = 0; Libc.syscall(_calls.Submit, _context, 1, &block, null, null) != 1; tries++)
        {
            if (Libc.LastError != Errno.EAGAIN || tries == Tries)
                return false;
            MakeRoom();
        }
        return true;
    }

    // What is done lies in the context's ring until it is taken; other threads may take at the same time.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void MakeRoom()
    {
        const int EventSize = 32;
        var events = stackalloc byte[TakenAtOnce * EventSize];
        // SAFETY: room for as many struct io_event as are asked for; without a minimum the call does not wait.
        Libc.syscall(_calls.GetEvents, _context, 0, (void*)TakenAtOnce, events, null);
    }

    private static FileDescriptor? TryMakeFile()
    {
        try
        {
            return MemoryFile.Create("eventfd-signals", 0);
        }
        catch (VirtbusException)
        {
            return null;
        }
    }

    private static nint TryMakeContext()
    {
        nint context = 0;
        // SAFETY: the kernel writes the context's number to the local.
        return _nothing is not null && _calls != default && Libc.syscall(_calls.Setup, Places, (nint)(&context), null, null, null) == 0 ? context : 0;
    }
}
