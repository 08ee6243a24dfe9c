using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Daemon.Provisioning;
using Virtbus.Hardware.Serial;

namespace Virtbus.Tests.Cli;

/// <summary>The socket of a serial port's line, with the test as the guest's driver at the registers.</summary>
public sealed class SerialConsoleTests : IAsyncDisposable
{
    private const int Data = 0;
    private const int FifoControl = 2;
    private const int LineControl = 3;
    private const int LineStatus = 5;
    private const byte DataReady = 0x01;
    private const byte TransmitterEmpty = 0x20;

    private readonly string _folder = Directory.CreateTempSubdirectory("vb").FullName;
    private readonly SerialFunction _function = new();
    private readonly SerialConsole _console;

    public SerialConsoleTests()
    {
        _console = new SerialConsole(new SerialTextPort(_function.Port), Path.Combine(_folder, "serial0.console.sock"), NullLogger.Instance, TimeProvider.System);
        Write(LineControl, 3);
        Write(FifoControl, 1);
    }

    public async ValueTask DisposeAsync()
    {
        await _console.DisposeAsync();
        _function.Dispose();
        Directory.Delete(_folder);
    }

    [Fact]
    public async Task Text_goes_both_ways()
    {
        using var client = await ConnectAsync();
        Assert.True(_console.IsConnected);
        Say("hello\n"u8);
        Assert.Equal("hello\n", Encoding.ASCII.GetString(await ReadAsync(client, 6)));
        // Longer than the FIFO.
        const string Line = "a line that no FIFO of a 16550A holds in one piece\n";
        await client.SendAsync(Encoding.ASCII.GetBytes(Line));
        Assert.Equal(Line, Encoding.ASCII.GetString(Hear(Line.Length)));
    }

    [Fact]
    public async Task Guest_waits_for_a_client_that_does_not_read_and_nothing_is_lost()
    {
        using var client = await ConnectAsync();
        var text = RandomNumberGenerator.GetBytes(1 << 20);
        var said = Task.Run(() => Say(text));
        Assert.Equal(text, await ReadAsync(client, text.Length));
        await said;
    }

    [Fact]
    public async Task Newer_client_takes_the_line_over()
    {
        using var first = await ConnectAsync();
        // More than the guest takes: the older client's words would stand in the way of the newer one's.
        await first.SendAsync(new byte[64]);
        using var second = await ConnectAsync();
        await SeeHungUpAsync(first);
        Write(FifoControl, 3);
        await second.SendAsync("new"u8.ToArray());
        Assert.Equal("new", Encoding.ASCII.GetString(Hear(3)));
        Say("old"u8);
        Assert.Equal("old", Encoding.ASCII.GetString(await ReadAsync(second, 3)));
    }

    // Where the line did not take all that the client sent, the kernel tells of that by a reset.
    private static async Task SeeHungUpAsync(Socket client)
    {
        try
        {
            Assert.Equal(0, await client.ReceiveAsync(new byte[1]).WaitAsync(TestFabric.Deadline));
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionReset)
        {
            // Expected.
        }
    }

    [Fact]
    public async Task What_a_client_sent_arrives_though_it_has_gone()
    {
        using (var client = await ConnectAsync())
            await client.SendAsync("the last words of somebody\n"u8.ToArray());
        Assert.Equal("the last words of somebody\n", Encoding.ASCII.GetString(Hear(27)));
        Assert.True(SpinWait.SpinUntil(() => !_console.IsConnected, TestFabric.Deadline));
    }

    [Fact]
    public async Task Next_guest_reads_nothing_of_what_was_typed_for_the_one_before()
    {
        using var client = await ConnectAsync();
        // More than the FIFO and what the line takes at a time: it waits at every place on the way.
        await client.SendAsync(Encoding.ASCII.GetBytes(new string('s', 64 << 10)));
        Assert.Equal((byte)'s', Hear(1)[0]);
        _function.Reset();
        Write(LineControl, 3);
        Write(FifoControl, 1);
        await client.SendAsync("for the next"u8.ToArray());
        Assert.Equal("for the next", Encoding.ASCII.GetString(Hear(12)));
        Assert.Equal(0, Read(LineStatus) & DataReady);
    }

    [Fact]
    public async Task Disposing_hangs_up_and_takes_the_socket_away()
    {
        using var client = await ConnectAsync();
        await _console.DisposeAsync();
        Assert.Equal(0, await client.ReceiveAsync(new byte[1]).WaitAsync(TestFabric.Deadline));
        Assert.False(File.Exists(_console.Path));
        Assert.False(_function.Port.IsConnected);
    }

    private async Task<Socket> ConnectAsync()
    {
        var wasThere = _console.IsConnected;
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(_console.Path));
        // The first one is seen at the line; of a newer one the older hears.
        Assert.True(wasThere || SpinWait.SpinUntil(() => _function.Port.IsConnected && _console.IsConnected, TestFabric.Deadline));
        return socket;
    }

    private static async Task<byte[]> ReadAsync(Socket client, int count)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var bytes = new byte[count];
        for (var at = 0; at < count;)
        {
            var read = await client.ReceiveAsync(bytes.AsMemory(at), deadline.Token);
            Assert.NotEqual(0, read);
            at += read;
        }
        return bytes;
    }

    private void Say(ReadOnlySpan<byte> bytes)
    {
        foreach (var one in bytes)
        {
            Assert.True(SpinWait.SpinUntil(() => (Read(LineStatus) & TransmitterEmpty) != 0, TestFabric.Deadline));
            Write(Data, one);
        }
    }

    private byte[] Hear(int count)
    {
        var bytes = new byte[count];
        for (var i = 0; i < count; i++)
        {
            Assert.True(SpinWait.SpinUntil(() => (Read(LineStatus) & DataReady) != 0, TestFabric.Deadline), $"{i} of {count} bytes came.");
            bytes[i] = Read(Data);
        }
        return bytes;
    }

    private byte Read(int register)
    {
        Span<byte> value = stackalloc byte[1];
        _function.ReadBar(0, (ulong)register, value);
        return value[0];
    }

    private void Write(int register, byte value) => _function.WriteBar(0, (ulong)register, [value]);
}
