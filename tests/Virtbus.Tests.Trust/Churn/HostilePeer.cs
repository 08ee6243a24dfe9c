using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Virtbus.Platform;

namespace Virtbus.Tests.Trust;

/// <summary>
/// One connection to a socket of the daemon from a peer that wants to hurt: what it sends follows from a seed. It never waits for anything.
/// </summary>
internal sealed class HostilePeer : IDisposable
{
    public const int VfioHeader = 16;
    public const int VhostHeader = 12;

    private const int MostDescriptors = 32;
    private const int Page = 4096;
    private const int MostUnread = 16;
    // The other ends of connections, of which the last close waits as long as nobody reads them.
    private static readonly ConcurrentQueue<Socket> Unread = new();
    private readonly UnixStream _stream;
    private readonly Random _random;
    private readonly byte[] _buffer = new byte[64 << 10];
    private readonly List<FileDescriptor> _files = [];
    private readonly List<IDisposable> _held = [];

    private HostilePeer(UnixStream stream, Random random)
    {
        _stream = stream;
        _random = random;
    }

    /// <summary>Connects; null when the socket is not there or as many wait already as it lets wait.</summary>
    public static HostilePeer? TryConnect(string path, Random random) => UnixStream.TryConnect(path, out _) is { } stream ? new HostilePeer(stream, random) : null;

    /// <summary>One session with a server of vfio-user.</summary>
    public void AttackVfio()
    {
        if (_random.Next(8) == 0)
        {
            SendNoise();
            return;
        }
        SendVersion();
        for (var i = _random.Next(12); i >= 0; i--)
        {
            switch (_random.Next(11))
            {
                case 0:
                    // Now and then more than the kernel lets a process have mappings.
                    MapPages(_random.Next(10) == 0 ? 70_000 : _random.Next(1, 3000));
                    break;
                case 1:
                    MapSparse();
                    break;
                case 2:
                    PileUp(VfioMessage(2, new byte[32768]).AsSpan(0, VfioHeader + 1));
                    return;
                case 3:
                    Send(VfioMessage(2, Words(32, 3, 0, Address(), Page)), AnyFile());
                    break;
                case 4:
                    SetInterrupts();
                    break;
                case 5:
                    ReadWithoutListening();
                    break;
                case 6:
                    Send(VfioMessage((ushort)_random.Next(20), Noise(_random.Next(200)), flags: (uint)_random.Next(64)), AnyFile());
                    break;
                case 7:
                    // A message that never ends.
                    Send(VfioMessage(10, Noise(5000)).AsSpan(0, VfioHeader + _random.Next(4000)));
                    return;
                case 8:
                    ShrinkMemory();
                    break;
                case 9:
                    Send(VfioMessage(3, Words(24, (uint)_random.Next(4), 0, _random.Next(2) == 0 ? 0 : Address(), _random.Next(2) == 0 ? ulong.MaxValue : Page)));
                    break;
                default:
                    Send(VfioMessage(10, [.. Words64((ulong)_random.Next(256)), .. Bytes32((uint)_random.Next(9)), .. Bytes32(4), .. Noise(4)]));
                    break;
            }
            if (_random.Next(2) == 0)
                Drain();
        }
    }

    /// <summary>One session with a back end of vhost-user.</summary>
    public void AttackVhost()
    {
        if (_random.Next(8) == 0)
        {
            SendNoise();
            return;
        }
        Send(VhostMessage(16, Words64((1UL << 0) | (1 << 3) | (1 << 5) | (1 << 9) | (1 << 13) | (1 << 15) | (1 << 16))));
        for (var i = _random.Next(20); i >= 0; i--)
        {
            var request = (uint)_random.Next(1, 45);
            switch (_random.Next(8))
            {
                case 0:
                    PileUp(VhostMessage(5, new byte[4096]).AsSpan(0, VhostHeader + 1));
                    return;
                case 1:
                    var size = 1UL << _random.Next(12, 47);
                    Send(VhostMessage(37, Words64(0, Address(), size, Address(), 0)), Memory(size, isSealed: true));
                    break;
                case 2:
                    Send(VhostMessage(37, Words64(0, Address(), Page, Address(), 0)), AnyFile());
                    break;
                case 3:
                    Send(VhostMessage((uint)_random.Next(12, 15), Words64((ulong)_random.Next(300))), AnyFile());
                    break;
                case 4:
                    Send(VhostMessage((uint)_random.Next(8, 12), Words64((uint)_random.Next(3) | ((ulong)(uint)_random.Next(2000) << 32))));
                    break;
                case 5:
                    Send(VhostMessage(request, Noise(_random.Next(64)), flags: (uint)_random.Next(16)), AnyFile());
                    break;
                case 6:
                    Send(VhostMessage(25, [.. Bytes32(32), .. Bytes32(1), .. Bytes32(0), (byte)_random.Next(2)]));
                    break;
                default:
                    Send(VhostMessage(39, Words64((ulong)_random.Next(256))));
                    break;
            }
            if (_random.Next(2) == 0)
                Drain();
        }
    }

    /// <summary>One request to the control interface that makes no sense, or that never ends.</summary>
    public void AttackControl()
    {
        var text = _random.Next(4) switch
        {
            0 => "PUT /v1/tree?path=/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc",
            1 => $"GET /v1/tree?path=/{new string('%', _random.Next(3000))} HTTP/1.1\r\nHost: x\r\n\r\n",
            2 => "GET /v1/events?history=true HTTP/1.1\r\nHost: x\r\n\r\n",
            _ => "POST /v1/modules/load?name=../../x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        };
        Send(Encoding.ASCII.GetBytes(text));
        if (_random.Next(4) == 0)
            SendNoise();
    }

    public void Dispose()
    {
        // What was sent is the daemon's alone when it closes it.
        foreach (var file in _files)
            file.Dispose();
        _stream.Dispose();
        foreach (var held in _held)
            held.Dispose();
    }

    /// <summary>A message of vfio-user.</summary>
    public static byte[] VfioMessage(ushort command, ReadOnlySpan<byte> payload, uint flags = 0, ushort id = 7)
    {
        var message = new byte[VfioHeader + payload.Length];
        BinaryPrimitives.WriteUInt16LittleEndian(message, id);
        BinaryPrimitives.WriteUInt16LittleEndian(message.AsSpan(2), command);
        BinaryPrimitives.WriteInt32LittleEndian(message.AsSpan(4), message.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(message.AsSpan(8), flags);
        payload.CopyTo(message.AsSpan(VfioHeader));
        return message;
    }

    private static byte[] VhostMessage(uint request, ReadOnlySpan<byte> payload, uint flags = 9)
    {
        var message = new byte[VhostHeader + payload.Length];
        BinaryPrimitives.WriteUInt32LittleEndian(message, request);
        BinaryPrimitives.WriteUInt32LittleEndian(message.AsSpan(4), flags);
        BinaryPrimitives.WriteInt32LittleEndian(message.AsSpan(8), payload.Length);
        payload.CopyTo(message.AsSpan(VhostHeader));
        return message;
    }

    private static byte[] Bytes32(uint value)
    {
        var bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return bytes;
    }

    private static byte[] Words64(params ReadOnlySpan<ulong> values)
    {
        var bytes = new byte[8 * values.Length];
        for (var i = 0; i < values.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(8 * i), values[i]);
        return bytes;
    }

    // Two words of 32 bits, then words of 64: what DMA requests look like.
    private static byte[] Words(uint first, uint second, params ReadOnlySpan<ulong> rest) => [.. Bytes32(first), .. Bytes32(second), .. Words64(rest)];

    private ulong Address() => (ulong)_random.NextInt64(1L << 36) * Page;

    private byte[] Noise(int length)
    {
        var bytes = new byte[length];
        _random.NextBytes(bytes);
        return bytes;
    }

    private void SendNoise() => Send(Noise(_random.Next(1, 4096)), AnyFile());

    private void SendVersion()
    {
        var text = _random.Next(5) switch
        {
            0 => "",
            1 => "{}\0",
            2 => "{\"capabilities\":{\"max_msg_fds\":0,\"twin_socket\":{\"supported\":true}}}\0",
            3 => $"{{\"x\":\"{new string('y', _random.Next(60000))}\"}}\0",
            _ => "{\"capabilities\":{\"max_msg_fds\":16,\"write_multiple\":true}}\0",
        };
        Send(VfioMessage(1, [0, 0, 1, 0, .. Encoding.ASCII.GetBytes(text)]));
    }

    // Each page of one file a map of its own.
    private void MapPages(int count)
    {
        var file = Memory((ulong)count * Page, isSealed: true);
        var start = Address();
        for (var i = 0UL; i < (ulong)count; i++)
        {
            if (!Send(VfioMessage(2, Words(32, 3, i * Page, start + (i * Page), Page), flags: 0x10), file))
                return;
        }
    }

    // Address space without memory.
    private void MapSparse()
    {
        for (var shift = 46; shift > 30; shift--)
        {
            var size = 1UL << shift;
            if (!Send(VfioMessage(2, Words(32, 3, 0, size, size)), Memory(size, isSealed: true)))
                return;
        }
    }

    // The start of one message, and then a byte at a time, each with as many descriptors as go with it.
    private void PileUp(ReadOnlySpan<byte> start)
    {
        var files = Enumerable.Repeat(Memory(Page, isSealed: false), MostDescriptors).ToArray();
        if (!Send(start, files))
            return;
        for (var i = _random.Next(200); i > 0 && Send([0], files); i--)
        {
        }
    }

    private void SetInterrupts()
    {
        var count = (uint)_random.Next(1, 9);
        Send(
            VfioMessage(8, [.. Bytes32(20), .. Bytes32(0x24), .. Bytes32((uint)_random.Next(5)), .. Bytes32(0), .. Bytes32(count)]),
            [.. Enumerable.Range(0, (int)count).SelectMany(_ => AnyFile()).Take(MostDescriptors)]);
    }

    private void ReadWithoutListening()
    {
        var request = VfioMessage(9, [.. Words64(0), .. Bytes32(7), .. Bytes32(64)]);
        for (var i = 0; i < 2000 && Send(request); i++)
        {
        }
    }

    private void ShrinkMemory()
    {
        const ulong Size = 1 << 20;
        var file = Memory(Size, isSealed: false);
        Send(VfioMessage(2, Words(32, 3, 0, 0x1_0000_0000, Size)), file);
        using var handle = File.OpenHandle($"/proc/self/fd/{file.Number}", FileMode.Open, FileAccess.ReadWrite);
        RandomAccess.SetLength(handle, 0);
    }

    private FileDescriptor Memory(ulong size, bool isSealed)
    {
        var file = MemoryFile.Create("trust-hostile", size, isSealed);
        _files.Add(file);
        return file;
    }

    // What a peer may have open; some of it blocks who reads, writes or closes it.
    private FileDescriptor[] AnyFile()
    {
        switch (_random.Next(9))
        {
            case 0:
                return Keep(FileDescriptor.TryOpen("/dev/zero", writable: true, out _));
            case 1:
                return Keep(FileDescriptor.TryOpen("/proc/self/maps", writable: false, out _));
            case 2:
                return Keep(FileDescriptor.TryOpen("/etc/passwd", writable: false, out _));
            case 3:
                return Keep(FileDescriptor.TryOpen("/", writable: false, out _));
            case 4:
                return [Lingering()];
            case 5:
                var counter = new EventFd();
                _held.Add(counter);
                return [counter.Descriptor];
            case 6:
                return [Memory((ulong)_random.Next(3) * Page, isSealed: _random.Next(2) == 0)];
            case 7:
                return [.. Enumerable.Repeat(Memory(Page, isSealed: true), _random.Next(2, MostDescriptors))];
            default:
                return [];
        }
    }

    private FileDescriptor[] Keep(FileDescriptor? file)
    {
        if (file is null)
            return [];
        _files.Add(file);
        return [file];
    }

    /// <summary>Ends what closes in the daemon may still wait for.</summary>
    public static void LetGo()
    {
        while (Unread.TryDequeue(out var oldest))
            oldest.Dispose();
    }

    // A TCP connection whose close waits for the other side to read.
    private FileDescriptor Lingering()
    {
        using var listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { LingerState = new LingerOption(true, 5) };
        socket.Connect(listener.LocalEndPoint!);
        Unread.Enqueue(listener.Accept());
        if (Unread.Count > MostUnread && Unread.TryDequeue(out var oldest))
            oldest.Dispose();
        socket.Blocking = false;
        while (socket.Send(_buffer, SocketFlags.None, out _) > 0)
        {
        }
        var file = new FileDescriptor((int)socket.Handle);
        var copy = file.Duplicate();
        file.SetHandleAsInvalid();
        _files.Add(copy);
        return copy;
    }

    // False when the other side is gone, or does not take what comes.
    private bool Send(ReadOnlySpan<byte> bytes, params ReadOnlySpan<FileDescriptor> files)
    {
        var isOne = true;
        while (!bytes.IsEmpty)
        {
            var sent = _stream.Send(bytes, files, out var error);
            if (sent < 0 && error == Errno.EAGAIN && isOne)
            {
                isOne = false;
                Drain();
                continue;
            }
            if (sent < 0)
                return false;
            bytes = bytes[sent..];
            files = default;
        }
        return true;
    }

    private void Drain()
    {
        List<FileDescriptor> got = [];
        while (_stream.Receive(_buffer, got, out _) > 0)
        {
        }
        foreach (var file in got)
            file.Dispose();
    }
}
