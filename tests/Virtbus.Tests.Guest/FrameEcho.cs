using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Net.Sockets;

namespace Virtbus.Tests.Guest;

/// <summary>The host's end of a QEMU network device (<c>-netdev stream</c>): sends the frames of one type back to where they come from, and keeps what they were.</summary>
internal sealed class FrameEcho : IDisposable
{
    private const ushort Type = 0x88B5;
    private const int HeaderLength = 14;

    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly byte[] _address;
    private readonly ConcurrentQueue<int> _lengths = new();
    private readonly ConcurrentQueue<string> _wrong = new();

    /// <param name="path">Where QEMU connects.</param>
    /// <param name="address">Who sends the frames: six bytes.</param>
    public FrameEcho(string path, byte[] address)
    {
        _address = address;
        _listener.Bind(new UnixDomainSocketEndPoint(path));
        _listener.Listen();
        _ = RunAsync();
    }

    /// <summary>The lengths that came, each once, the shortest first.</summary>
    public IEnumerable<int> Lengths => _lengths.Distinct().Order();

    /// <summary>What came that nobody can have sent.</summary>
    public IReadOnlyCollection<string> Wrong => _wrong;

    public void Dispose() => _listener.Dispose();

    private async Task RunAsync()
    {
        try
        {
            using var socket = await _listener.AcceptAsync();
            await using var stream = new NetworkStream(socket);
            var head = new byte[4];
            while (true)
            {
                await stream.ReadExactlyAsync(head);
                var frame = new byte[BinaryPrimitives.ReadInt32BigEndian(head)];
                await stream.ReadExactlyAsync(frame);
                if (BinaryPrimitives.ReadUInt16BigEndian(frame.AsSpan(12)) != Type)
                    continue;
                Look(frame);
                frame.AsSpan(6, 6).CopyTo(frame);
                await stream.WriteAsync((byte[])[.. head, .. frame]);
            }
        }
        catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException)
        {
            // Expected: the guest is gone.
        }
    }

    private void Look(byte[] frame)
    {
        _lengths.Enqueue(frame.Length);
        // A frame's number is known by its first byte.
        var isRight = frame.AsSpan(6, 6).SequenceEqual(_address);
        for (var at = HeaderLength; at < frame.Length; at++)
            isRight &= (byte)(frame[at] - frame[HeaderLength]) == (byte)((at - HeaderLength) * 7);
        if (!isRight)
            _wrong.Enqueue(Convert.ToHexString(frame));
    }
}
