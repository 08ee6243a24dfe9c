using Virtbus.Platform;

namespace Virtbus.Transports.Nbd;

/// <summary>The connection as the protocol sees it: bytes. A descriptor that comes with them is no part of it. One thread at a time.</summary>
internal sealed class NbdStream
{
    private readonly UnixStream _stream;
    private readonly List<FileDescriptor> _descriptors = [];

    internal NbdStream(UnixStream stream)
    {
        _stream = stream;
        stream.TryMakeBlocking();
    }

    /// <summary>The socket, to wait on.</summary>
    internal FileDescriptor Descriptor => _stream.Descriptor;

    /// <summary>Why it is over, in words; null while it goes on.</summary>
    internal string? Ended { get; private set; }

    /// <summary>Whether nothing more comes from the client, which may take replies still.</summary>
    internal bool IsAtEnd { get; private set; }

    /// <summary>Reads what is there.</summary>
    /// <param name="buffer">Where to; not empty.</param>
    /// <param name="wait">Whether to wait for something.</param>
    /// <returns>How many bytes; 0 when nothing is there, or nothing more comes.</returns>
    internal int Receive(Span<byte> buffer, bool wait)
    {
        var count = _stream.Receive(buffer, _descriptors, wait, out var error);
        if (_descriptors.Count > 0)
        {
            foreach (var descriptor in _descriptors)
                descriptor.Dispose();
            _descriptors.Clear();
            IsAtEnd = true;
            return End("it sent descriptors, which the protocol does not know");
        }

        if (count > 0)
            return count;
        if (count < 0 && error == Errno.EAGAIN)
            return 0;
        IsAtEnd = true;
        return count == 0 ? 0 : End($"{error} at a read");
    }

    /// <summary>Waits for so many bytes.</summary>
    /// <returns>False when it is over.</returns>
    internal bool ReadExactly(Span<byte> buffer)
    {
        while (!buffer.IsEmpty && Ended is null)
        {
            buffer = buffer[Receive(buffer, wait: true)..];
            if (IsAtEnd)
                End("it closed the connection");
        }

        return Ended is null;
    }

    /// <summary>Sends all of the bytes, and waits for room.</summary>
    /// <returns>False when it is over.</returns>
    internal bool Send(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty && Ended is null)
        {
            var count = _stream.Send(bytes, [], wait: true, out var error);
            if (count < 0)
                return End($"{error} at a write") > 0;
            bytes = bytes[count..];
        }

        return Ended is null;
    }

    /// <summary>Sends what there is room for.</summary>
    /// <returns>How many bytes; 0 when there is no room, or it is over.</returns>
    internal long SendRuns(ReadOnlySpan<IoVector> runs)
    {
        var count = _stream.SendRuns(runs, out var error);
        if (count > 0)
            return count;
        return error == Errno.EAGAIN ? 0 : End($"{error} at a write");
    }

    internal int End(string reason)
    {
        Ended ??= reason;
        return 0;
    }
}
