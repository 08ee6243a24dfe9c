using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using System.Text;

namespace Virtbus.Transports.Fuse;

/// <summary>A request of the kernel (struct fuse_in_header and what follows), looked at where it lies.</summary>
internal readonly ref struct FuseRequest
{
    private static readonly UTF8Encoding Utf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    private FuseRequest(ReadOnlySpan<byte> message)
    {
        Opcode = (FuseOpcode)MemoryMarshal.Read<uint>(message[4..]);
        Unique = MemoryMarshal.Read<ulong>(message[8..]);
        NodeId = MemoryMarshal.Read<ulong>(message[16..]);
        User = MemoryMarshal.Read<uint>(message[24..]);
        Body = message[FuseProtocol.InHeaderSize..];
    }

    internal FuseOpcode Opcode { get; }

    internal ulong Unique { get; }

    internal ulong NodeId { get; }

    /// <summary>Who asks: a user id, as it is seen where the file system was mounted.</summary>
    internal uint User { get; }

    internal ReadOnlySpan<byte> Body { get; }

    /// <summary>Looks at a request.</summary>
    /// <param name="message">What was read.</param>
    /// <param name="request">It.</param>
    /// <returns>False when it is none: too short, or not as long as it says.</returns>
    internal static bool TryRead(ReadOnlySpan<byte> message, out FuseRequest request)
    {
        if (message.Length < FuseProtocol.InHeaderSize || MemoryMarshal.Read<uint>(message) != message.Length)
        {
            request = default;
            return false;
        }

        request = new FuseRequest(message);
        return true;
    }

    /// <summary>Reads the structure that the body begins with.</summary>
    internal bool TryTake<T>(out T value)
        where T : unmanaged => MemoryMarshal.TryRead(Body, out value);

    /// <summary>Reads the name that the body is.</summary>
    internal bool TryTakeName([NotNullWhen(true)] out string? name)
    {
        name = null;
        if (Body is not [.. var bytes, 0] || bytes.IsEmpty)
            return false;
        try
        {
            name = Utf8.GetString(bytes);
            return true;
        }
        catch (DecoderFallbackException)
        {
            // Nothing of the tree has a name that is no text.
            return false;
        }
    }
}
