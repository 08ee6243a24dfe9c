using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>
/// Requests of this side whose replies are awaited: one, or a run of them with ids that follow each other. Made once and used again; its
/// buffer grows to what its replies need. Its channel's gate guards it while it is under way.
/// </summary>
internal sealed class VfioUserCall
{
    private byte[] _request = new byte[64];
    private byte[] _reply = new byte[64];

    /// <summary>The id of the first request.</summary>
    internal ushort FirstId { get; set; }

    /// <summary>How many requests it is.</summary>
    internal int Count { get; set; }

    /// <summary>How many replies are still to come.</summary>
    internal int Outstanding { get; set; }

    /// <summary>The command, which the replies must repeat.</summary>
    internal VfioUserCommand Command { get; set; }

    /// <summary>When it was sent, in milliseconds of the system's tick count.</summary>
    internal long Since { get; set; }

    /// <summary>What is wrong with the first reply that says so.</summary>
    internal Fault Fault { get; set; }

    /// <summary>Where each reply of a run goes; null for the only reply of a single request.</summary>
    internal IVfioUserRun? Batch { get; set; }

    /// <summary>Where the addresses begin that a request for memory names, so that it can be given up when they are unmapped.</summary>
    internal ulong Address { get; set; }

    /// <summary>How many bytes from there; 0 for what is no request for memory.</summary>
    internal ulong Length { get; set; }

    /// <summary>The payload of the reply.</summary>
    internal ReadOnlySpan<byte> Reply => _reply.AsSpan(0, ReplyLength);

    /// <summary>What the payload of the reply begins with, or what lies further on in it. There must be as much.</summary>
    internal T Read<T>(int at = 0)
        where T : unmanaged => MemoryMarshal.Read<T>(Reply[at..]);

    /// <summary>Descriptors that came with it; the caller takes them.</summary>
    internal List<FileDescriptor> Descriptors { get; } = [];

    private int ReplyLength { get; set; }

    /// <summary>Where the request is put together.</summary>
    /// <param name="size">Its size, header included.</param>
    internal Span<byte> Request(int size)
    {
        if (_request.Length < size)
            _request = new byte[size];
        return _request.AsSpan(0, size);
    }

    internal void Store(ReadOnlySpan<byte> payload)
    {
        if (_reply.Length < payload.Length)
            _reply = new byte[payload.Length];
        payload.CopyTo(_reply);
        ReplyLength = payload.Length;
    }
}
