using System.Net.Sockets;
using System.Text;
using Virtbus.Tests.Cli;
using Xunit;

namespace Virtbus.Tests.Guest;

/// <summary>The host's end of a guest's serial port.</summary>
internal sealed class ConsoleClient : IDisposable
{
    private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly StreamReader _lines;

    public ConsoleClient(TestFabric fabric, string port)
    {
        _socket.Connect(new UnixDomainSocketEndPoint(Path.Combine(fabric.Runtime, port + ".console.sock")));
        _lines = new StreamReader(new NetworkStream(_socket), Encoding.ASCII);
    }

    /// <summary>Reads a line that the guest says.</summary>
    public async Task<string> HearAsync()
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        return await _lines.ReadLineAsync(deadline.Token) ?? throw new EndOfStreamException("The line was hung up.");
    }

    /// <summary>Says a line to the guest.</summary>
    public async Task SayAsync(string line)
    {
        var bytes = Encoding.ASCII.GetBytes(line + "\n");
        for (var at = 0; at < bytes.Length;)
            at += await _socket.SendAsync(bytes.AsMemory(at));
    }

    public void Dispose()
    {
        _lines.Dispose();
        _socket.Dispose();
    }
}
