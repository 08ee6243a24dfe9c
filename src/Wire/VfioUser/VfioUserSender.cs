using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>The sending side of a channel's socket: whole messages, one sender at a time, and no wait without an end.</summary>
/// <param name="channel">Whose; closed when the peer is gone or makes no room.</param>
/// <param name="stream">The socket; it is closed here, when nobody sends.</param>
/// <param name="timeout">How long the peer may leave no room, in milliseconds.</param>
internal sealed class VfioUserSender(VfioUserChannel channel, UnixStream stream, int timeout) : IDisposable
{
    private readonly Lock _lock = new();

    /// <summary>Sends, waiting for room.</summary>
    /// <param name="bytes">One message, or several without descriptors.</param>
    /// <param name="descriptors">The descriptors of the only message.</param>
    /// <param name="deadline">When it has to be over, on the system's tick count, if that is before the peer's time is up.</param>
    /// <param name="isShared">Whether other threads may send.</param>
    /// <returns>False when the connection is over.</returns>
    internal bool TrySend(ReadOnlySpan<byte> bytes, ReadOnlySpan<FileDescriptor> descriptors, long deadline, bool isShared)
    {
        if (!isShared)
            return TrySendAlone(bytes, descriptors, deadline);
        lock (_lock)
            return TrySendAlone(bytes, descriptors, deadline);
    }

    public void Dispose()
    {
        lock (_lock)
            stream.Dispose();
    }

    private bool TrySendAlone(ReadOnlySpan<byte> bytes, ReadOnlySpan<FileDescriptor> descriptors, long deadline)
    {
        var since = 0L;
        // Once it is closed the socket may be gone too.
        while (!channel.IsClosed)
        {
            var sent = stream.Send(bytes, descriptors, wait: false, out var error);
            if (sent == bytes.Length)
                return true;
            if (sent < 0 && error != Errno.EAGAIN)
            {
                channel.Close(error == Errno.EBADF
                    ? new Fault(error, "what was to be passed to the peer is gone")
                    : new Fault(Errno.ECONNRESET, "the peer is gone"));
                break;
            }

            if (sent > 0)
            {
                bytes = bytes[sent..];
                descriptors = default;
            }

            var now = Environment.TickCount64;
            since = since == 0 ? now : since;
            var left = Math.Min(deadline, since + timeout) - now;
            if (left <= 0)
            {
                channel.Close(new Fault(Errno.ETIMEDOUT, "the peer does not take what is sent to it"));
                break;
            }

            // A shutdown from another thread ends it.
            Polling.Wait(stream.Descriptor, forWriting: true, cancel: null, (int)left);
        }

        return false;
    }
}
