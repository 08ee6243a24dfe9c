using System.Net.Sockets;
using System.Text.Json;
using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>A QEMU that takes commands while it runs (QMP).</summary>
internal sealed class MonitoredQemu : IDisposable
{
    private readonly string _socket;
    private StreamReader? _answers;
    private NetworkStream? _stream;

    private MonitoredQemu(string program, string socket)
    {
        Program = program;
        _socket = socket;
    }

    /// <summary>What runs it, with the monitor added to its arguments.</summary>
    public string Program { get; }

    /// <summary>Makes the program.</summary>
    /// <param name="fabric">Whose folder it is put in.</param>
    /// <param name="kind">A device that the QEMU must have; the first of this machine that has it is taken.</param>
    /// <param name="reconnect">By which option it connects again to devices whose server has gone; null: it does not.</param>
    public static async Task<MonitoredQemu> MakeAsync(TestFabric fabric, VmDeviceKind kind, string? reconnect = null)
    {
        // A first one is made, which takes what the mirror and the host let it.
        var qemu = await new QemuFinder().FindAsync([QemuFinder.DeviceName(kind)], TestContext.Current.CancellationToken);
        var socket = Path.Combine(Path.GetDirectoryName(fabric.Runtime)!, "qmp");
        var command = string.Join(' ', qemu.Command.Select(part => $"'{part.Replace("'", "'\\''", StringComparison.Ordinal)}'"));
        const string Each = "for a; do shift; case $a in socket,id=dev*-socket,*) a=$a,OPTION;; esac; set -- \"$@\" \"$a\"; done\n";
        var again = reconnect is null ? "" : Each.Replace("OPTION", reconnect, StringComparison.Ordinal);
        var program = fabric.Write("qemu", $"#!/bin/sh\n{again}exec {command} \"$@\" -qmp unix:{socket},server=on,wait=off\n");
        File.SetUnixFileMode(program, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        return new MonitoredQemu(program, socket);
    }

    /// <summary>Has it do a command and waits for the answer.</summary>
    public async Task<JsonElement> DoAsync(string command)
    {
        if (_stream is null)
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(_socket));
            _stream = new NetworkStream(socket, ownsSocket: true);
            _answers = new StreamReader(_stream);
            await DoAsync("qmp_capabilities");
        }
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        await _stream.WriteAsync(JsonSerializer.SerializeToUtf8Bytes(new { execute = command }), deadline.Token);
        while (await _answers!.ReadLineAsync(deadline.Token) is { } line)
        {
            // What is no answer is its greeting or an event.
            var answer = JsonDocument.Parse(line).RootElement;
            Assert.False(answer.TryGetProperty("error", out _), line);
            if (answer.TryGetProperty("return", out var result))
                return result;
        }
        Assert.Fail("QEMU has closed its monitor.");
        return default;
    }

    public void Dispose()
    {
        _answers?.Dispose();
        _stream?.Dispose();
    }
}
