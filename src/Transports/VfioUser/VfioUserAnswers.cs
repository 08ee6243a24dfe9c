using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>The answers to one client's requests, put together where they are sent from. Used by the session's thread.</summary>
internal sealed class VfioUserAnswers(VfioUserChannel channel)
{
    /// <summary>What is not sent yet.</summary>
    internal VfioUserOutbox Outbox { get; } = new(channel);

    /// <summary>Begins an answer. False when the connection is over, which the next take notices.</summary>
    /// <param name="message">The request.</param>
    /// <param name="size">Bytes of the payload.</param>
    /// <param name="payload">Where it goes; kept by <see cref="Keep(int)"/> or <see cref="Send"/>.</param>
    internal bool TryBegin(in VfioUserMessage message, int size, out Span<byte> payload)
    {
        if (!Outbox.TryReserve(HeaderSize + size, out var bytes))
        {
            payload = default;
            return false;
        }

        VfioUserMessage.WriteHeader(bytes, message.Id, message.Command, bytes.Length, TypeReply);
        payload = bytes[HeaderSize..];
        return true;
    }

    /// <summary>Keeps the answer begun last; it is sent with those that follow.</summary>
    internal bool Keep(int size)
    {
        Outbox.Commit(HeaderSize + size);
        return true;
    }

    /// <summary>As the other one, when less came together than was begun.</summary>
    internal bool Keep(in VfioUserMessage message, int size)
    {
        VfioUserMessage.WriteHeader(Outbox.Reserved, message.Id, message.Command, HeaderSize + size, TypeReply);
        return Keep(size);
    }

    /// <summary>Sends the answer begun last, with descriptors.</summary>
    internal bool Send(int size, ReadOnlySpan<FileDescriptor> descriptors)
    {
        Outbox.TrySend(HeaderSize + size, descriptors);
        return true;
    }

    /// <summary>Answers with the first bytes of the request, or with nothing.</summary>
    internal bool Echo(in VfioUserMessage message, int size, out Fault fault)
    {
        fault = Fault.None;
        if (!message.WantsReply || !TryBegin(message, size, out var bytes))
            return true;
        message.Payload[..size].CopyTo(bytes);
        return Keep(size);
    }

    /// <summary>Answers that it was refused.</summary>
    internal void Refuse(in VfioUserMessage message, Errno errno)
    {
        if (!Outbox.TryReserve(HeaderSize, out var bytes))
            return;
        VfioUserMessage.WriteHeader(bytes, message.Id, message.Command, HeaderSize, TypeReply | ErrorFlag, errno);
        Outbox.Commit(HeaderSize);
    }

    /// <summary>Whether a request is as long as its command, and takes an answer of that length (argsz).</summary>
    internal static bool TryCheckSize(in VfioUserMessage message, int least, out Fault fault)
    {
        if (message.Payload.Length < least)
            return VfioUserProtocol.Refuse(Errno.EINVAL, "the message is shorter than its command", out fault);
        if (message.ArgSize < least)
            return VfioUserProtocol.Refuse(Errno.EINVAL, "argsz is smaller than what it counts", out fault);
        fault = Fault.None;
        return true;
    }
}
