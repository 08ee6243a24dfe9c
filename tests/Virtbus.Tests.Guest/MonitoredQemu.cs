using System.Net.Sockets;
using System.Text.Json;
using Virtbus.Tests.Cli;
using Virtbus.Vm;

namespace Virtbus.Tests.Guest;

/// <summary>A QEMU that takes commands while it runs (QMP).</summary>
internal sealed class MonitoredQemu : IDisposable
{
    private readonly string _socket;
    private readonly List<JsonElement> _events = [];
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
    /// <param name="slots">How many slots it has for devices that come and go: slot1, slot2 and so on.</param>
    public static async Task<MonitoredQemu> MakeAsync(TestFabric fabric, VmDeviceKind kind, string? reconnect = null, int slots = 0)
    {
        var socket = Path.Combine(Path.GetDirectoryName(fabric.Runtime)!, "qmp");
        const string Each = "for a; do shift; case $a in socket,id=dev*-socket,*) a=$a,OPTION;; esac; set -- \"$@\" \"$a\"; done\n";
        var again = reconnect is null ? "" : Each.Replace("OPTION", reconnect, StringComparison.Ordinal);
        var ports = string.Concat(Enumerable.Range(1, slots).Select(static i => $" -device pcie-root-port,id=slot{i},chassis={i},slot={i}"));
        return new MonitoredQemu(await QemuScript.WriteAsync(fabric, kind, again, $"{ports} -qmp unix:{socket},server=on,wait=off"), socket);
    }

    /// <summary>Plugs a PCI function in.</summary>
    /// <param name="id">The device's name in QEMU.</param>
    /// <param name="slot">The number of its slot.</param>
    /// <param name="socket">Where the function is served by vfio-user.</param>
    public Task PlugAsync(string id, int slot, string socket) => DoAsync(
        "device_add",
        new Dictionary<string, object> { ["driver"] = QemuFinder.DeviceName(VmDeviceKind.VfioUserPci), ["id"] = id, ["bus"] = $"slot{slot}", ["socket"] = new { type = "unix", path = socket } });

    /// <summary>Asks the guest to give a device up, waits until it has, and the device is gone from QEMU too.</summary>
    public async Task UnplugAsync(string id)
    {
        await DoAsync("device_del", new { id });
        while (!_events.Exists(e => e.GetProperty("event").GetString() == "DEVICE_DELETED" && e.GetProperty("data").TryGetProperty("device", out var device) && device.GetString() == id))
            await ReadAsync();
        _events.Clear();
    }

    /// <summary>Has it do a command and waits for the answer.</summary>
    public async Task<JsonElement> DoAsync(string command, object? arguments = null)
    {
        if (_stream is null)
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(_socket));
            _stream = new NetworkStream(socket, ownsSocket: true);
            _answers = new StreamReader(_stream);
            await DoAsync("qmp_capabilities");
        }
        var request = new Dictionary<string, object> { ["execute"] = command };
        if (arguments is not null)
            request["arguments"] = arguments;
        await _stream.WriteAsync(JsonSerializer.SerializeToUtf8Bytes(request));
        JsonElement? result;
        while ((result = await ReadAsync()) is null)
        {
        }

        return result.Value;
    }

    // What is no answer is its greeting or an event, which is kept.
    private async Task<JsonElement?> ReadAsync()
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var line = await _answers!.ReadLineAsync(deadline.Token);
        Assert.True(line is not null, "QEMU has closed its monitor.");
        var answer = JsonDocument.Parse(line!).RootElement;
        Assert.False(answer.TryGetProperty("error", out _), line);
        if (answer.TryGetProperty("event", out _))
            _events.Add(answer);
        return answer.TryGetProperty("return", out var result) ? result : null;
    }

    public void Dispose()
    {
        _answers?.Dispose();
        _stream?.Dispose();
    }
}
