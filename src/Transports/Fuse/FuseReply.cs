using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>Writes a message to the kernel, whole.</summary>
/// <param name="message">An answer or a notice.</param>
internal delegate Errno FuseWrite(ReadOnlySpan<byte> message);

/// <summary>The answer to one request after the other, of one thread: put together in its memory, written at once.</summary>
/// <param name="write">Writes to where the request was read from.</param>
internal sealed class FuseReply(FuseWrite write)
{
    private readonly byte[] _message = new byte[FuseProtocol.OutHeaderSize + FuseProtocol.MaxRead];
    private ulong _unique;

    /// <summary>Where what follows the header goes.</summary>
    internal Span<byte> Room => _message.AsSpan(FuseProtocol.OutHeaderSize);

    /// <summary>The next answer is to this request.</summary>
    internal void Begin(ulong unique) => _unique = unique;

    /// <summary>Answers with what is in <see cref="Room"/>.</summary>
    /// <param name="length">Bytes of it.</param>
    internal void Send(int length) => Write(_message.AsSpan(0, FuseProtocol.OutHeaderSize + length), 0, _unique, write);

    /// <summary>Answers with a structure.</summary>
    internal void Send<T>(in T value)
        where T : unmanaged
    {
        MemoryMarshal.Write(Room, in value);
        Send(Marshal.SizeOf<T>());
    }

    /// <summary>Answers with an error, or that it is done where there is nothing to say.</summary>
    internal void End(Errno errno) => Write(_message.AsSpan(0, FuseProtocol.OutHeaderSize), -(int)errno, _unique, write);

    /// <summary>Answers later, from any thread.</summary>
    internal FuseLateReply Defer() => new(write, _unique);

    /// <summary>Writes a message whose body is in place (struct fuse_out_header).</summary>
    /// <param name="message">Room for the header, and the body.</param>
    /// <param name="error">0, a negative errno, or what a notice is.</param>
    /// <param name="unique">Which request; 0 for a notice.</param>
    /// <param name="write">Writes it.</param>
    internal static void Write(Span<byte> message, int error, ulong unique, FuseWrite write)
    {
        MemoryMarshal.Write(message, (uint)message.Length);
        MemoryMarshal.Write(message[4..], in error);
        MemoryMarshal.Write(message[8..], in unique);
        // Nobody waits for it any more, or nothing is mounted: either way nobody is left to tell.
        _ = write(message);
    }
}
