using System.Globalization;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;

namespace Virtbus.Tests.Cli;

public sealed class MonitorTests
{
    [Fact]
    public async Task Events_come_as_they_happen_and_the_stream_ends_with_the_fabric()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(TestFabric.DemoManifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        // The history tells when the monitor listens: it begins with what was before.
        var monitor = fabric.Start("monitor", "-j", "--history");
        Assert.Equal(1, (await NextAsync()).GetProperty("seqnum").GetInt64());
        await fabric.OkAsync("driver", "unbind", "demo.part.0");
        var last = 1L;
        while (true)
        {
            var e = await NextAsync();
            Assert.Equal(++last, e.GetProperty("seqnum").GetInt64());
            if (e.GetProperty("action").GetString() != "unbind")
                continue;
            Assert.Equal(TestFabric.AdapterPath + "/demo.part.0", e.GetProperty("devpath").GetString());
            Assert.Equal("auxiliary", e.GetProperty("subsystem").GetString());
            Assert.Equal("auxiliary:demo.part", e.GetProperty("variables").GetProperty("MODALIAS").GetString());
            break;
        }
        await fabric.OkAsync("down");
        await monitor.StandardOutput.ReadToEndAsync(deadline.Token);
        await monitor.WaitForExitAsync(deadline.Token);
        Assert.Equal(0, monitor.ExitCode);

        async Task<JsonElement> NextAsync() => JsonDocument.Parse((await monitor.StandardOutput.ReadLineAsync(deadline.Token))!).RootElement;
    }

    [Fact]
    public async Task A_reader_that_is_slow_is_told_how_many_events_it_lost()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(TestFabric.DemoManifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveBufferSize = 4096 };
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(fabric.ControlSocket), deadline.Token);
        await socket.SendAsync(Encoding.ASCII.GetBytes("GET /v1/events HTTP/1.0\r\n\r\n"), deadline.Token);
        using var reader = new StreamReader(new NetworkStream(socket));
        while (await reader.ReadLineAsync(deadline.Token) is { Length: > 0 })
        {
        }
        // Now the stream is open; nothing is read while more happens than the socket and the queue hold.
        const int Count = 20_000;
        await EmitAsync(fabric, Count, deadline.Token);
        var (seen, lost, first, last) = (0L, 0L, 0L, 0L);
        while (seen + lost < Count)
        {
            var e = JsonDocument.Parse((await reader.ReadLineAsync(deadline.Token))!).RootElement;
            if (e.TryGetProperty("lost", out var missing))
            {
                lost += missing.GetInt64();
                last += missing.GetInt64();
                continue;
            }
            var number = e.GetProperty("seqnum").GetInt64();
            if (first == 0)
                (first, last) = (number, number - 1);
            Assert.Equal(++last, number);
            seen++;
        }
        Assert.True(lost > 0);
        Assert.Equal(Count, seen + lost);
    }

    // Many requests on one connection: a process for each would take minutes.
    private static async Task EmitAsync(TestFabric fabric, int count, CancellationToken cancellationToken)
    {
        using var http = new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = async (_, token) =>
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await socket.ConnectAsync(new UnixDomainSocketEndPoint(fabric.ControlSocket), token);
                return new NetworkStream(socket, ownsSocket: true);
            },
        });
        for (var i = 0; i < count; i++)
        {
            using var content = new StringContent("change");
            using var answer = await http.PutAsync(new Uri($"http://virtbus/v1/tree?path={TestFabric.AdapterPath}/uevent"), content, cancellationToken);
            Assert.True(answer.IsSuccessStatusCode, i.ToString(CultureInfo.InvariantCulture));
        }
    }
}
