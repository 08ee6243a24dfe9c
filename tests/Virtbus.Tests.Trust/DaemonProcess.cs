using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Trust;

/// <summary>A daemon in its runtime folder: the program's own process, what it logs, and its control interface.</summary>
internal sealed class DaemonProcess : IAsyncDisposable
{
    /// <summary>Name of memory that users of devices make.</summary>
    public const string UserMemory = "trust-user";

    private readonly TestFabric _fabric = new();
    private readonly string _manifest;
    private readonly List<string> _log = [];
    private readonly HttpClient _control;
    private Process? _process;

    /// <param name="manifest">What <c>up</c> is given.</param>
    public DaemonProcess(string manifest)
    {
        _manifest = manifest;
        _control = new HttpClient(new SocketsHttpHandler
        {
            // One connection a request, so that none is among what the daemon holds.
            PooledConnectionLifetime = TimeSpan.Zero,
            ConnectCallback = async (_, cancellationToken) =>
            {
                while (true)
                {
                    var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                    try
                    {
                        await socket.ConnectAsync(new UnixDomainSocketEndPoint(_fabric.ControlSocket), cancellationToken);
                        return new NetworkStream(socket, ownsSocket: true);
                    }
                    catch (SocketException e) when (e.SocketErrorCode == SocketError.WouldBlock)
                    {
                        // As many wait already as may; a connect that does not block is not let wait with them.
                        socket.Dispose();
                        await Task.Yield();
                    }
                    catch
                    {
                        socket.Dispose();
                        throw;
                    }
                }
            },
        }) { BaseAddress = new Uri("http://virtbus"), Timeout = TestFabric.Deadline };
    }

    /// <summary>The folder with the sockets.</summary>
    public string Runtime => _fabric.Runtime;

    /// <summary>What the daemon holds now.</summary>
    public string Holds => Holdings.Of(_process!.Id);

    /// <summary>What it takes of its host now.</summary>
    public ChurnFigures Figures(double seconds) => ChurnFigures.Of(_process!.Id, seconds, LogLength);

    /// <summary>Starts it; returns when all that the manifest names is there.</summary>
    public async Task UpAsync()
    {
        var process = await _fabric.StartUpAsync(_manifest);
        process.ErrorDataReceived += (_, line) =>
        {
            lock (_log)
                _log.Add(line.Data ?? "");
        };
        process.BeginErrorReadLine();
        _process = process;
    }

    /// <summary>Ends it as nothing can be done against (SIGKILL).</summary>
    public async Task KillAsync()
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        _process!.Kill();
        await _process.WaitForExitAsync(deadline.Token);
        CheckLog();
    }

    /// <summary>Takes it down in order, which must go in time and leave nothing in its folder that is of a device.</summary>
    public async Task DownAsync()
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        await _fabric.OkAsync("down");
        await _process!.WaitForExitAsync(deadline.Token);
        CheckLog();
        Assert.Equal(0, _process.ExitCode);
        Assert.Empty(Directory.EnumerateFileSystemEntries(Runtime, "*.sock"));
    }

    /// <summary>A failure of the daemon's own side that it lived through, as its log has it.</summary>
    public void CheckLog()
    {
        lock (_log)
            Assert.DoesNotContain(_log, line => line.Contains("Z error ", StringComparison.Ordinal) || line.Contains("Exception", StringComparison.Ordinal));
    }

    /// <summary>Whether a line of the log, from a number on, contains all of some texts.</summary>
    /// <param name="from">How many lines there were before.</param>
    /// <param name="texts">The texts.</param>
    public bool Logged(int from, params string[] texts)
    {
        lock (_log)
            return _log.Skip(from).Any(line => texts.All(text => line.Contains(text, StringComparison.Ordinal)));
    }

    /// <summary>Its last lines, but for those of what users ask for at random.</summary>
    public string LogTail
    {
        get
        {
            lock (_log)
                return string.Join('\n', _log.Where(line => !line.Contains("that was refused", StringComparison.Ordinal)).TakeLast(20));
        }
    }

    /// <summary>How many lines the log has.</summary>
    public int LogLength
    {
        get
        {
            lock (_log)
                return _log.Count;
        }
    }

    /// <summary>The path of the socket that a device is offered on.</summary>
    /// <param name="address">The device's address.</param>
    public string SocketOf(string address) => Path.Combine(Runtime, address + ".sock");

    /// <summary>Writes an attribute; returns when what was asked for is done.</summary>
    public async Task SetAsync(string path, string value)
    {
        var refusal = await TrySetAsync(path, value);
        Assert.True(refusal is null, $"{path} = {value}: {refusal}");
    }

    /// <summary>Writes an attribute.</summary>
    /// <returns>Null when it is done; else the refusal.</returns>
    public async Task<string?> TrySetAsync(string path, string value)
    {
        using var content = new StringContent(value);
        using var answer = await _control.PutAsync(Query(path), content);
        return answer.StatusCode == HttpStatusCode.NoContent ? null : await answer.Content.ReadAsStringAsync();
    }

    /// <summary>Reads an attribute.</summary>
    public async Task<string> GetAsync(string path)
    {
        using var answer = await AskAsync(Query(path));
        return answer.RootElement.GetProperty("value").GetString()!.TrimEnd('\n');
    }

    /// <summary>The names in a folder of attributes, and what links lead to.</summary>
    public async Task<Dictionary<string, string?>> ListAsync(string path)
    {
        using var answer = await AskAsync(Query(path));
        return answer.RootElement.GetProperty("entries").EnumerateArray().ToDictionary(
            e => e.GetProperty("name").GetString()!,
            e => e.TryGetProperty("target", out var target) ? target.GetString() : null);
    }

    /// <summary>Loads a driver module.</summary>
    public async Task LoadAsync(string module)
    {
        using var answer = await _control.PostAsync(new Uri("/v1/modules/load?name=" + module, UriKind.Relative), null);
        Assert.True(answer.IsSuccessStatusCode, $"{module}: {await answer.Content.ReadAsStringAsync()}");
    }

    /// <summary>The address of a device that the manifest names.</summary>
    public async Task<string> AddressOfAsync(string name)
    {
        using var answer = await AskAsync(new Uri("/v1/status", UriKind.Relative));
        return answer.RootElement.GetProperty("sockets").EnumerateArray()
            .Where(s => s.GetProperty("device").GetString() == name && s.GetProperty("protocol").GetString() == "vfio-user")
            .Select(s => s.GetProperty("address").GetString()!)
            .Single();
    }

    /// <summary>The path in the tree of a device that the manifest names.</summary>
    public async Task<string> PathOfAsync(string name)
    {
        using var answer = await AskAsync(new Uri("/v1/device?name=" + name, UriKind.Relative));
        return answer.RootElement.GetProperty("path").GetString()!;
    }

    /// <summary>The path of the VFIO device of a function; null when there is none.</summary>
    public async Task<string?> VfioDeviceOfAsync(string address)
    {
        foreach (var name in (await ListAsync("/class/vfio-dev")).Keys)
        {
            if (await GetAsync($"/class/vfio-dev/{name}/label") == address)
                return "/class/vfio-dev/" + name;
        }
        return null;
    }

    public async ValueTask DisposeAsync()
    {
        _control.Dispose();
        await _fabric.DisposeAsync();
    }

    private async Task<JsonDocument> AskAsync(Uri uri)
    {
        using var answer = await _control.GetAsync(uri);
        var text = await answer.Content.ReadAsStringAsync();
        Assert.True(answer.IsSuccessStatusCode, $"{uri}: {text}");
        return JsonDocument.Parse(text);
    }

    private static Uri Query(string path) => new($"/v1/tree?path={Uri.EscapeDataString(path)}", UriKind.Relative);
}
