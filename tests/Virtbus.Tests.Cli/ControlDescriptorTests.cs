using System.Diagnostics;
using System.Text;
using Virtbus.Platform;

namespace Virtbus.Tests.Cli;

/// <summary>Clients of the control socket that pass descriptors, which nobody asked them for.</summary>
public sealed class ControlDescriptorTests
{
    private const int Clients = 4;

    [Theory]
    [InlineData("GET /v1/status HTTP/1.1\r\nHost: virtbus\r\n\r\n")]
    [InlineData("PUT /v1/tree?path=/ HTTP/1.1\r\nHost: virtbus\r\nContent-Length: 100\r\n\r\npart")]
    [InlineData("\0")]
    public async Task One_whose_close_waits_holds_up_no_request(string text)
    {
        await using var fabric = new TestFabric();
        var daemon = await fabric.StartUpAsync(TestFabric.DemoManifest);
        var lingering = Enumerable.Range(0, Clients).Select(static _ => new Lingering()).ToList();
        var clients = new List<UnixStream>();
        // It takes nothing meanwhile, so that its close is the last one.
        await SignalAsync(daemon, "-STOP");
        foreach (var one in lingering)
        {
            var client = UnixStream.TryConnect(fabric.ControlSocket, out _)!;
            clients.Add(client);
            Assert.Equal(text.Length, client.Send(Encoding.ASCII.GetBytes(text), [one.Descriptor], out _));
            one.Forget();
        }
        await SignalAsync(daemon, "-CONT");
        await fabric.OkAsync("status");
        clients.ForEach(static client => client.Dispose());
        await fabric.OkAsync("status");
        await fabric.OkAsync("down");
        await daemon.EndsAsync();
        lingering.ForEach(static one => one.Dispose());
    }

    [Fact]
    public async Task Ones_without_end_have_a_bound_and_who_comes_then_waits()
    {
        const int Limit = 600, Connections = 40;
        await using var fabric = new TestFabric();
        var daemon = fabric.StartProgram("bash", "-c", $"ulimit -n {Limit}; exec '{TestFabric.Program}' up '{fabric.Write("m.yaml", TestFabric.DemoManifest)}'");
        await TestFabric.ReadUntilAsync(daemon, "Next:");
        var lingering = new Lingering();
        var path = fabric.Write("file", "");
        var files = Enumerable.Range(0, UnixStream.MaxDescriptors).Select(i => FileDescriptor.TryOpen(path, writable: false, out _)!).ToArray();
        await SignalAsync(daemon, "-STOP");
        using (var client = UnixStream.TryConnect(fabric.ControlSocket, out _)!)
        {
            Assert.Equal(1, client.Send("\0"u8, [lingering.Descriptor], out _));
            lingering.Forget();
        }
        await SignalAsync(daemon, "-CONT");
        // Behind the close that waits all others wait.
        for (var i = 0; i < Connections; i++)
        {
            using var client = UnixStream.TryConnect(fabric.ControlSocket, out _);
            client?.Send("\0"u8, files, out _);
        }
        await TestFabric.ReadErrorUntilAsync(daemon, "its clients sent descriptors, as many as they may, whose close waits");
        Assert.InRange(Directory.GetFiles($"/proc/{daemon.Id}/fd").Length, 0, Limit - 30);
        lingering.Dispose();
        await fabric.OkAsync("status");
        await fabric.OkAsync("down");
        await daemon.EndsAsync();
        foreach (var file in files)
            file.Dispose();
    }

    private static async Task SignalAsync(Process process, string signal)
    {
        using var kill = Process.Start("kill", [signal, $"{process.Id}"]);
        await kill.EndsAsync();
    }
}
