using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>The answer to a write that takes its time. It is given once; any thread.</summary>
/// <param name="write">Writes to where the request was read from.</param>
/// <param name="unique">Which request.</param>
internal sealed class FuseLateReply(FuseWrite write, ulong unique)
{
    private readonly CancellationTokenSource _end = new();
    private int _isGiven;

    /// <summary>Which request.</summary>
    internal ulong Unique => unique;

    /// <summary>Ends when whoever asked waits no more.</summary>
    internal CancellationToken Interrupted => _end.Token;

    /// <summary>Answers that so many bytes are written, or why not.</summary>
    internal void Give(int written, Errno errno)
    {
        if (Interlocked.Exchange(ref _isGiven, 1) != 0)
            return;
        const int BodySize = 8;
        Span<byte> message = stackalloc byte[FuseProtocol.OutHeaderSize + BodySize];
        message.Clear();
        MemoryMarshal.Write(message[FuseProtocol.OutHeaderSize..], in written);
        FuseReply.Write(errno == Errno.None ? message : message[..FuseProtocol.OutHeaderSize], -(int)errno, unique, write);
    }

    /// <summary>Whoever asked was interrupted: they are answered at once, and what was begun is asked to end.</summary>
    internal void Interrupt()
    {
        Give(0, Errno.EINTR);
        _end.Cancel();
    }
}
