using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>
/// Standard input, output and error by their descriptors. .NET's console streams hide a reader that has gone, so a program would print to nobody
/// for ever, and write into whatever has the number of a stream that the process was not given.
/// </summary>
public static partial class StandardStreams
{
    private const int Input = 0;
    private const int Output = 1;
    private const int Error = 2;
    private const int GetDescriptorFlags = 1;
    private const int CloseOnExec = 1;
    private const int ReadOnly = 0;
    private const int WriteOnly = 1;
    private const short PollOut = 4;
    private static readonly bool[] Missing = new bool[Error + 1];

    /// <summary>
    /// Finds out which of the three this process was not given. Nothing that is opened later gets the number of one of them. To be called
    /// first thing in a process.
    /// </summary>
    public static void Claim()
    {
        for (var descriptor = Input; descriptor <= Error; descriptor++)
        {
            var flags = Fcntl(descriptor, GetDescriptorFlags, 0);
            // What a process inherits can't be marked so: with the mark it is a file of the runtime's own that took the free number.
            Missing[descriptor] = flags < 0 || (flags & CloseOnExec) != 0;
            // The other way round from what the stream is for, so that its use is an error and not the end of a file.
            if (flags < 0)
                _ = Open("/dev/null", descriptor == Input ? WriteOnly : ReadOnly);
        }
    }

    /// <summary>Whether the process has standard input.</summary>
    public static bool HasInput => !Missing[Input];

    /// <summary>Writes to standard output; waits while it is full and does not block.</summary>
    /// <param name="bytes">What to write.</param>
    /// <param name="error">The errno when the answer is false; EBADF when there is no such stream, EPIPE when its reader has gone.</param>
    /// <returns>Whether all was written.</returns>
    public static bool TryWriteOutput(ReadOnlySpan<byte> bytes, out Errno error) => TryWrite(Output, bytes, out error);

    /// <summary>Writes to standard error, as <see cref="TryWriteOutput"/>.</summary>
    /// <param name="bytes">What to write.</param>
    /// <param name="error">The errno when the answer is false.</param>
    /// <returns>Whether all was written.</returns>
    public static bool TryWriteError(ReadOnlySpan<byte> bytes, out Errno error) => TryWrite(Error, bytes, out error);

    private static bool TryWrite(int descriptor, ReadOnlySpan<byte> bytes, out Errno error)
    {
        error = Missing[descriptor] ? Errno.EBADF : Errno.None;
        while (error == Errno.None && bytes.Length > 0)
        {
            var written = Write(descriptor, ref MemoryMarshal.GetReference(bytes), (nuint)bytes.Length);
            if (written >= 0)
            {
                bytes = bytes[(int)written..];
                continue;
            }

            error = (Errno)Marshal.GetLastPInvokeError();
            if (error == Errno.EAGAIN)
            {
                var entry = new PollDescriptor { Descriptor = descriptor, Events = PollOut };
                _ = Poll(ref entry, 1, -1);
            }

            if (error is Errno.EAGAIN or Errno.EINTR)
                error = Errno.None;
        }

        return error == Errno.None;
    }

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    private static partial int Fcntl(int descriptor, int command, nint argument);

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "write", SetLastError = true)]
    private static partial nint Write(int descriptor, ref byte bytes, nuint count);

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
