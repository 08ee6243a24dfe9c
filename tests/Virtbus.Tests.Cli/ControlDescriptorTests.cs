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

    private static async Task SignalAsync(Process process, string signal)
    {
        using var kill = Process.Start("kill", [signal, $"{process.Id}"]);
        await kill.EndsAsync();
    }
}
