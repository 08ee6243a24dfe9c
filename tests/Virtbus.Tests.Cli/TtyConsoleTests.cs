using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Core;
using Virtbus.Daemon.Provisioning;
using Virtbus.Platform;
using Virtbus.Subsystems.Tty;

namespace Virtbus.Tests.Cli;

/// <summary>The sockets of lines of class tty: the fabric's own end of a console.</summary>
public sealed class TtyConsoleTests
{
    private const string Functions = """
        functions:
          - { name: talk0, virtio: console, driver: virtio-pci }
        """;

    [Fact]
    public async Task Megabyte_each_way_goes_through_a_console_between_its_two_ends()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Functions);
        Assert.Matches("hvc0 +console +.*hvc0\\.tty\\.sock", await fabric.OkAsync("socket", "list"));
        Assert.Contains("hvc0", await fabric.RefusedAsync("console", "hvc1"), StringComparison.Ordinal);
        using var line = await ConnectAsync(fabric, "hvc0.tty.sock");
        // The far end loses what is said while nobody is there.
        using var far = await ConnectAsync(fabric, "talk0.console.sock");
        Deadline.Until(() => fabric.OkAsync("attr", "get", "/class/tty/hvc0/user").Result.Length > 1, "the line to be open");
        Deadline.Until(() => fabric.OkAsync("socket", "list").Result.Split('\n').Count(static l => l.Contains("console", StringComparison.Ordinal) && l.Contains('(', StringComparison.Ordinal)) == 2, "both to be connected");
        byte[] there = RandomNumberGenerator.GetBytes(1 << 20), back = RandomNumberGenerator.GetBytes(1 << 20);
        var sent = Task.WhenAll(SendAsync(line, there), SendAsync(far, back));
        var came = await Task.WhenAll(ReadAsync(far, there.Length), ReadAsync(line, back.Length));
        await sent;
        Assert.Equal(there, came[0]);
        Assert.Equal(back, came[1]);
    }

    [Fact]
    public async Task Line_hangs_up_with_its_driver_and_comes_again_with_it()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Functions);
        using var line = await ConnectAsync(fabric, "hvc0.tty.sock");
        await fabric.OkAsync("driver", "unbind", "virtio0");
        Assert.Equal(0, await line.ReceiveAsync(new byte[1]).WaitAsync(TestFabric.Deadline));
        Assert.False(File.Exists(Path.Combine(fabric.Runtime, "hvc0.tty.sock")));
        await fabric.OkAsync("driver", "bind", "virtio0", "virtio_console");
        using var again = await ConnectAsync(fabric, "hvc0.tty.sock");
        Deadline.Until(() => fabric.OkAsync("attr", "get", "/class/tty/hvc0/user").Result.Length > 1, "the line to be open");
    }

    [Fact]
    public async Task Line_that_a_program_has_is_refused_in_words_and_is_had_when_it_is_free()
    {
        var fabric = new Fabric();
        var ops = new HeldLine();
        var device = await TtySubsystem.Of(fabric).RegisterAsync(null, "hvc", ops);
        var folder = Directory.CreateTempSubdirectory("vb").FullName;
        await using (var console = new SerialConsole(new TtyTextPort(device), Path.Combine(folder, "hvc0.tty.sock"), NullLogger.Instance, TimeProvider.System))
        {
            using (device.Open("a program"))
            using (var refused = await ConnectAsync(console.Path))
            {
                Assert.Equal("Line 'hvc0' is open by a program. Close it there first.\r\n", Encoding.UTF8.GetString(await ReadToEndAsync(refused)));
                Assert.False(console.IsConnected);
                Assert.Equal(0, console.Connections);
            }

            // What it takes no more of waits for room, in its order, and what comes while the client does not read stays with the driver.
            using var client = await ConnectAsync(console.Path);
            Deadline.Until(() => console.IsConnected, "the line to be open");
            await client.SendAsync("0123456789"u8.ToArray());
            Deadline.Until(() => ops.Taken.Length == HeldLine.Room, "the first of it to come");
            ops.Free();
            device.Wake();
            Deadline.Until(() => ops.Taken.Length == 10, "the rest to come");
            Assert.Equal("0123456789", ops.Taken);
            ops.Fill(1 << 20);
            device.Wake();
            Deadline.Until(() => ops.Unread is > 0 and < (1 << 20), "the client's room to be full");
            Assert.Equal(1 << 20, (await ReadAsync(client, 1 << 20)).Length);
            Assert.Equal(0, ops.Unread);
        }

        Assert.Null(device.User);
        await TtySubsystem.Of(fabric).UnregisterAsync(device);
        Directory.Delete(folder);
    }

    private static Task<Socket> ConnectAsync(TestFabric fabric, string name) => ConnectAsync(Path.Combine(fabric.Runtime, name));

    private static async Task<Socket> ConnectAsync(string path)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(path));
        return socket;
    }

    private static async Task SendAsync(Socket socket, ReadOnlyMemory<byte> bytes)
    {
        while (!bytes.IsEmpty)
            bytes = bytes[await socket.SendAsync(bytes)..];
    }

    private static async Task<byte[]> ReadAsync(Socket socket, int count)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var bytes = new byte[count];
        for (var at = 0; at < count;)
        {
            var read = await socket.ReceiveAsync(bytes.AsMemory(at), deadline.Token);
            Assert.True(read > 0, $"it ended after {at} bytes");
            at += read;
        }

        return bytes;
    }

    private static async Task<byte[]> ReadToEndAsync(Socket socket)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var bytes = new List<byte>();
        var buffer = new byte[256];
        int count;
        while ((count = await socket.ReceiveAsync(buffer, deadline.Token)) > 0)
            bytes.AddRange(buffer.AsSpan(0, count));
        return [.. bytes];
    }

    /// <summary>A driver's side with room for some bytes until it is freed.</summary>
    private sealed class HeldLine : ITtyOps
    {
        public const int Room = 4;

        private readonly Lock _lock = new();
        private readonly StringBuilder _taken = new();
        private int _room = Room;
        private int _unread;

        public (int Columns, int Rows) Size => default;

        public string Taken
        {
            get
            {
                lock (_lock)
                    return _taken.ToString();
            }
        }

        public int Unread => Volatile.Read(ref _unread);

        public void Free()
        {
            lock (_lock)
                _room = int.MaxValue;
        }

        public void Fill(int count) => Volatile.Write(ref _unread, count);

        public int Read(Span<byte> destination, out Fault fault)
        {
            fault = Fault.None;
            lock (_lock)
            {
                var count = Math.Min(destination.Length, _unread);
                _unread -= count;
                return count;
            }
        }

        public int Write(ReadOnlySpan<byte> source, out Fault fault)
        {
            fault = Fault.None;
            lock (_lock)
            {
                var count = Math.Min(source.Length, _room);
                _room -= count;
                _taken.Append(Encoding.ASCII.GetString(source[..count]));
                return count;
            }
        }
    }
}
