using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Virtbus.Platform;
using Virtbus.Wire.VhostUser;

namespace Virtbus.Transports.VhostUser;

/// <summary>Messages on a socket: a header read on its own, so that its descriptors are known to be its own, then exactly its payload.</summary>
internal sealed class VhostUserChannel(UnixStream stream) : IDisposable
{
    // How long a front end may leave no room for a reply that it asked for.
    private const int ReplyMilliseconds = 10_000;

    private readonly byte[] _header = new byte[VhostUserProtocol.HeaderSize];
    private readonly byte[] _payload = new byte[VhostUserProtocol.MaxPayload];
    private readonly byte[] _reply = new byte[VhostUserProtocol.HeaderSize + VhostUserProtocol.ConfigHeaderSize + VhostUserProtocol.MaxConfig];
    private readonly List<FileDescriptor> _descriptors = [];

    /// <summary>Ends the connection. Safe from any thread.</summary>
    internal void Shutdown() => stream.Shutdown();

    /// <summary>Where a reply's payload is put together.</summary>
    internal Span<byte> ReplyPayload => _reply.AsSpan(VhostUserProtocol.HeaderSize);

    /// <summary>
    /// Waits for a message. It is valid until the next call, which closes the descriptors that nobody took.
    /// </summary>
    /// <returns>False at the end of the stream, or after <see cref="Shutdown"/> (no fault), and for what is no message (fault).</returns>
    internal bool TryReceive(out VhostUserMessage message, out Fault fault)
    {
        message = default;
        CloseDescriptors();
        if (!TryFill(_header, atStart: true, out fault))
            return false;
        var header = MemoryMarshal.Read<VhostUserHeader>(_header);
        var (request, flags, size) = (header.Request, header.Flags, header.Size);
        message = new VhostUserMessage(header, default, _descriptors);
        fault = (flags, size) switch
        {
            _ when (flags & VhostUserProtocol.VersionMask) != VhostUserProtocol.Version =>
                new Fault(Errno.EPROTO, "the header has a version other than 1"),
            _ when (flags & ~VhostUserProtocol.KnownFlags) != 0 => new Fault(Errno.EPROTO, "the header has unknown flags"),
            _ when (flags & VhostUserProtocol.ReplyFlag) != 0 => new Fault(Errno.EPROTO, "a reply came where a request was due"),
            _ when size > VhostUserProtocol.MaxPayload => new Fault(Errno.EMSGSIZE, "the payload is larger than 4096 bytes"),
            _ when request == default => new Fault(Errno.EPROTO, "the header has no request"),
            _ => Fault.None,
        };
        if (fault != Fault.None)
            return false;
        var payload = _payload.AsSpan(0, (int)size);
        if (!TryFill(payload, atStart: false, out fault))
            return false;
        message = new VhostUserMessage(header, payload, _descriptors);
        return true;
    }

    /// <summary>Sends the reply to a request, its payload being the first bytes of <see cref="ReplyPayload"/>.</summary>
    /// <returns>False when the front end is gone, or makes no room for the reply.</returns>
    internal bool TryReply(VhostUserRequest request, int size)
    {
        var flags = VhostUserProtocol.Version | VhostUserProtocol.ReplyFlag;
        MemoryMarshal.Write(_reply, new VhostUserHeader { Request = request, Flags = flags, Size = (uint)size });
        var rest = _reply.AsSpan(0, VhostUserProtocol.HeaderSize + size);
        var since = 0L;
        while (!rest.IsEmpty)
        {
            var sent = stream.Send(rest, [], out var error);
            if (sent >= 0)
            {
                rest = rest[sent..];
                continue;
            }

            if (error != Errno.EAGAIN)
                return false;
            var now = Environment.TickCount64;
            since = since == 0 ? now : since;
            if (Polling.Wait(stream.Descriptor, forWriting: true, cancel: null, (int)Math.Max(0, since + ReplyMilliseconds - now)))
                continue;
            // A part of it may be gone: nothing sensible can follow, and the next receive ends the session.
            stream.Shutdown();
            return false;
        }

        return true;
    }

    /// <summary>Sends a reply whose payload is a struct.</summary>
    internal bool TryReply<T>(VhostUserRequest request, in T value)
        where T : unmanaged
    {
        MemoryMarshal.Write(ReplyPayload, in value);
        return TryReply(request, Unsafe.SizeOf<T>());
    }

    /// <summary>Sends a reply whose payload is one number.</summary>
    internal bool TryReply(VhostUserRequest request, ulong value) => TryReply<ulong>(request, in value);

    public void Dispose()
    {
        CloseDescriptors();
        stream.Dispose();
    }

    private bool TryFill(Span<byte> buffer, bool atStart, out Fault fault)
    {
        fault = Fault.None;
        var have = 0;
        while (have < buffer.Length)
        {
            var before = _descriptors.Count;
            var count = stream.Receive(buffer[have..], _descriptors, out var error);
            // They ride on a message's first byte; each further byte of it could bring as many again.
            if (_descriptors.Count != before && (have > 0 || !atStart))
            {
                fault = new Fault(Errno.EBADMSG, "descriptors came in the middle of a message");
                return false;
            }

            if (count > 0)
            {
                have += count;
                continue;
            }

            if (count == 0 || error == Errno.ECONNRESET)
            {
                if (have > 0 || !atStart)
                    fault = new Fault(Errno.EBADMSG, "the stream ended in the middle of a message");
                return false;
            }

            if (error != Errno.EAGAIN)
            {
                fault = new Fault(error, error switch
                {
                    Errno.EMSGSIZE => "more descriptors came than a message may carry",
                    Errno.EMFILE => "more descriptors came than a socket's peers may have open, or than this process has room for",
                    _ => "the socket cannot be read",
                });
                return false;
            }

            if (!Polling.Wait(stream.Descriptor, forWriting: false, cancel: null))
                return false;
        }

        return true;
    }

    private void CloseDescriptors()
    {
        foreach (var descriptor in _descriptors)
            descriptor.Dispose();
        _descriptors.Clear();
    }
}
