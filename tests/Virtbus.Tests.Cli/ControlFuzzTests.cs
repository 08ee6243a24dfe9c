using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;

namespace Virtbus.Tests.Cli;

/// <summary>
/// The control interface and the tree behind it, under requests made by their grammar with mistakes in them: right paths with right and wrong
/// values, wrong paths, wrong arguments, and bytes that are no request at all. What ends the daemon by order is left out, and nothing else.
/// </summary>
public sealed class ControlFuzzTests
{
    private const int Requests = 100_000;
    private const int Clients = 4;

    [Fact]
    public async Task A_100_000_requests_with_mistakes_end_in_answers_and_leave_nothing_of_themselves()
    {
        await using var fabric = new TestFabric();
        var daemon = await fabric.StartUpAsync(TestFabric.DemoManifest);
        var log = new ConcurrentQueue<string>();
        var reads = Task.WhenAll(DrainAsync(daemon.StandardError, log), DrainAsync(daemon.StandardOutput, log));
        var paths = Crawl(fabric.ControlSocket);
        Assert.Contains(paths, p => p.EndsWith("/driver_override", StringComparison.Ordinal));

        // What is loaded and opened once is there before it is counted.
        var bad = new ConcurrentQueue<string>();
        Run(fabric.ControlSocket, paths, 0, 500, bad);
        var before = Descriptors(daemon);
        var answers = new ConcurrentDictionary<int, int>();
        await Task.WhenAll(Enumerable.Range(1, Clients).Select(seed => Task.Factory.StartNew(
            () =>
            {
                foreach (var (status, count) in Run(fabric.ControlSocket, paths, seed, Requests / Clients, bad))
                    answers.AddOrUpdate(status, count, (_, sum) => sum + count);
            },
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default)));

        Assert.True(bad.IsEmpty, $"{bad.Count} answers are none:\n{string.Join('\n', bad.Take(20))}");
        // All kinds of ends were met, and each request had one.
        Assert.Equal(Requests, answers.Values.Sum());
        Assert.All(new[] { 200, 204, 400, 404, 413 }, status => Assert.True(answers.ContainsKey(status), $"no {status} among {string.Join(", ", answers)}"));
        Assert.False(daemon.HasExited);
        await fabric.OkAsync("status");
        await SettlesAsync(() => Count(Descriptors(daemon)) <= Count(before), () => $"before: {string.Join(", ", before)}; now: {string.Join(", ", Descriptors(daemon))}");
        await fabric.OkAsync("down");
        await reads;
        // A bug of the daemon is told with where it was.
        var told = log.ToList();
        var bug = told.FindIndex(line => line.TrimStart().StartsWith("at ", StringComparison.Ordinal));
        Assert.True(bug < 0, string.Join('\n', told.Skip(Math.Max(bug - 3, 0)).Take(8)));
    }

    private static async Task DrainAsync(StreamReader from, ConcurrentQueue<string> lines)
    {
        while (await from.ReadLineAsync() is { } line)
            lines.Enqueue(line);
    }

    private static async Task SettlesAsync(Func<bool> condition, Func<string> what)
    {
        var end = Stopwatch.StartNew();
        while (!condition())
        {
            Assert.True(end.Elapsed < TestFabric.Deadline, what());
            await Task.Yield();
        }
    }

    private static int Count(SortedDictionary<string, int> descriptors) => descriptors.Values.Sum();

    // How many there are of each kind; the runtime opens its own assemblies when it needs them, and keeps them.
    private static SortedDictionary<string, int> Descriptors(Process process)
    {
        var kinds = new SortedDictionary<string, int>(StringComparer.Ordinal);
        foreach (var entry in Directory.EnumerateFileSystemEntries($"/proc/{process.Id}/fd"))
        {
            var kind = new FileInfo(entry).LinkTarget is { } target ? target.Split(":[")[0] : "closed";
            if (!kind.EndsWith(".dll", StringComparison.Ordinal) && !kind.EndsWith(".pdb", StringComparison.Ordinal))
                kinds[kind] = kinds.GetValueOrDefault(kind) + 1;
        }
        return kinds;
    }

    // Every file and directory of the tree, but for the one that takes the fabric down.
    private static string[] Crawl(string socket)
    {
        using var client = new Client(socket);
        var all = new List<string>();
        var open = new Queue<string>(["/"]);
        while (open.TryDequeue(out var path))
        {
            all.Add(path);
            var (status, body) = client.Ask("GET", "/v1/tree?path=" + Uri.EscapeDataString(path), []);
            if (status != 200 || !JsonDocument.Parse(body).RootElement.TryGetProperty("entries", out var entries) || entries.ValueKind != JsonValueKind.Array)
                continue;
            foreach (var entry in entries.EnumerateArray())
            {
                var name = path.TrimEnd('/') + "/" + entry.GetProperty("name").GetString();
                if (entry.GetProperty("kind").GetString() == "directory")
                    open.Enqueue(name);
                else if (!name.EndsWith("/shutdown", StringComparison.Ordinal))
                    all.Add(name);
            }
        }
        return [.. all];
    }

    private static Dictionary<int, int> Run(string socket, string[] paths, int seed, int count, ConcurrentQueue<string> bad)
    {
        var random = new Random(seed);
        var answers = new Dictionary<int, int>();
        var client = new Client(socket);
        try
        {
            for (var i = 0; i < count; i++)
            {
                var (method, target, body) = Draw(random, paths);
                int status;
                if (random.Next(8) == 0)
                {
                    status = Client.Throw(socket, Mutate(random, Client.Encode(method, target, body)));
                }
                else
                {
                    string text;
                    try
                    {
                        (status, text) = client.Ask(method, target, body);
                    }
                    catch (Exception e) when (client.Answers > 0 && e is EndOfStreamException or SocketException { SocketErrorCode: not SocketError.TimedOut })
                    {
                        // Closed behind the answer before, whose request had more bytes than are taken. On a new one there is an answer.
                        client.Dispose();
                        client = new Client(socket);
                        (status, text) = client.Ask(method, target, body);
                    }
                    if (Wrong(seed, i, $"{method} {target}", status, text) is { } wrong)
                        bad.Enqueue(wrong);
                    if (!client.IsOpen)
                    {
                        client.Dispose();
                        client = new Client(socket);
                    }
                }
                answers[status] = answers.GetValueOrDefault(status) + 1;
            }
        }
        finally
        {
            client.Dispose();
        }
        return answers;
    }

    // A refusal is an errno and a sentence, whatever was asked for. Null for an answer that is right.
    private static string? Wrong(int seed, int number, string what, int status, string text)
    {
        if (status is 200 or 204)
            return null;
        var where = $"seed {seed}, request {number}: {what[..Math.Min(what.Length, 200)]}: {status} {text}";
        try
        {
            var answer = JsonDocument.Parse(text).RootElement;
            var message = answer.GetProperty("message").GetString();
            return string.IsNullOrEmpty(answer.GetProperty("errno").GetString()) || string.IsNullOrEmpty(message) || message.Contains("failed inside the daemon", StringComparison.Ordinal) ? where : null;
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException)
        {
            return where;
        }
    }

    private static (string Method, string Target, byte[] Body) Draw(Random random, string[] paths)
    {
        var path = paths[random.Next(paths.Length)];
        if (random.Next(6) == 0)
            path = Damage(random, path);
        switch (random.Next(10))
        {
            case < 3:
                return ("GET", "/v1/tree?path=" + Uri.EscapeDataString(path), []);
            case < 8:
                // A removal takes much of the world away; it comes back by a rescan.
                if (path.EndsWith("/remove", StringComparison.Ordinal) && random.Next(10) != 0)
                    path = "/bus/pci/rescan";
                return ("PUT", "/v1/tree?path=" + Uri.EscapeDataString(path), Value(random, paths));
            default:
                string[] routes =
                [
                    "/v1/status", "/v1/sockets", "/v1/topology", "/v1/devices", "/v1/device", "/v1/suggestions", "/v1/functions", "/v1/function", "/v1/kinds", "/v1/manifest",
                    "/v1/drivers", "/v1/buses", "/v1/modules", "/v1/modules/load", "/v1/modules/unload", "/v1/diff", "/v1/apply", "/v1/tree", "/v1/nothing", "/", "//v1/status",
                ];
                string[] names = ["name", "device", "path", "file", "force", "", "Name"];
                var target = new StringBuilder(routes[random.Next(routes.Length)]);
                for (var n = random.Next(3); n > 0; n--)
                {
                    target.Append(target.ToString().Contains('?', StringComparison.Ordinal) ? '&' : '?').Append(names[random.Next(names.Length)]).Append('=')
                        .Append(Uri.EscapeDataString(Encoding.Latin1.GetString(Value(random, paths, most: 200))));
                }
                string[] methods = ["GET", "GET", "POST", "PUT", "DELETE", "OPTIONS"];
                return (methods[random.Next(methods.Length)], target.ToString(), random.Next(3) == 0 ? Value(random, paths) : []);
        }
    }

    private static byte[] Value(Random random, string[] paths, int most = int.MaxValue)
    {
        var path = paths[random.Next(paths.Length)];
        var value = random.Next(12) switch
        {
            0 => "",
            1 => "1\n",
            2 => "0",
            3 => "\n",
            4 or 5 => path[(path.LastIndexOf('/') + 1)..],
            6 => random.NextInt64(long.MinValue, long.MaxValue).ToString(CultureInfo.InvariantCulture),
            7 => "name kind=pci parent=adapter0 queues=" + random.Next(-1, 5),
            8 => string.Concat(Enumerable.Repeat("abc\0", random.Next(2000))),
            9 => random.Next(50) == 0 ? new string('x', 70_000) : "1af4 10f5 " + random.Next(10),
            10 => Damage(random, "add 12345678-1234-1234-1234-123456789abc KEY=value"),
            _ => null,
        };
        if (value is not null)
            return Encoding.UTF8.GetBytes(value)[..Math.Min(Encoding.UTF8.GetByteCount(value), most)];
        var bytes = new byte[random.Next(64)];
        random.NextBytes(bytes);
        return bytes;
    }

    private static string Damage(Random random, string text)
    {
        string[] pieces = ["/", "..", "/../", "\0", "%2f", " ", "ä", "\n", "{", new string('y', 300)];
        var at = random.Next(text.Length + 1);
        return random.Next(3) switch
        {
            0 => text[..at],
            1 => text.Insert(at, pieces[random.Next(pieces.Length)]),
            _ => text[..at] + (char)random.Next(1, 0x250) + text[Math.Min(at + 1, text.Length)..],
        };
    }

    private static byte[] Mutate(Random random, byte[] request)
    {
        var bytes = request.ToList();
        for (var n = random.Next(1, 6); n > 0 && bytes.Count > 0; n--)
        {
            var at = random.Next(bytes.Count);
            switch (random.Next(4))
            {
                case 0:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 1:
                    bytes.RemoveRange(at, Math.Min(random.Next(1, 20), bytes.Count - at));
                    break;
                case 2:
                    bytes.InsertRange(at, bytes.GetRange(0, Math.Min(random.Next(1, 40), bytes.Count)));
                    break;
                default:
                    bytes.RemoveRange(at, bytes.Count - at);
                    break;
            }
        }
        return [.. bytes];
    }

    /// <summary>A connection to the control socket that speaks HTTP as plainly as it goes.</summary>
    private sealed class Client : IDisposable
    {
        private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 60_000 };
        private byte[] _buffer = new byte[1 << 14];
        private int _have;

        public Client(string path) => _socket.Connect(new UnixDomainSocketEndPoint(path));

        /// <summary>Whether the daemon keeps the connection.</summary>
        public bool IsOpen { get; private set; } = true;

        /// <summary>How many answers came by it.</summary>
        public int Answers { get; private set; }

        public void Dispose() => _socket.Dispose();

        public static byte[] Encode(string method, string target, byte[] body) =>
            [.. Encoding.ASCII.GetBytes($"{method} {target} HTTP/1.1\r\nHost: virtbus\r\nContent-Length: {body.Length}\r\n\r\n"), .. body];

        public (int Status, string Body) Ask(string method, string target, byte[] body)
        {
            try
            {
                _socket.Send(Encode(method, target, body));
            }
            catch (SocketException)
            {
                // A body that is too long is refused while it is sent; the answer is there all the same.
                IsOpen = false;
            }
            var head = ReadHead();
            var status = int.Parse(head.AsSpan(9, 3), CultureInfo.InvariantCulture);
            IsOpen &= !head.Contains("Connection: close", StringComparison.OrdinalIgnoreCase);
            var length = Header(head, "Content-Length");
            while (_have < length)
                Fill();
            var text = Encoding.UTF8.GetString(_buffer, 0, length);
            Answers++;
            Buffer.BlockCopy(_buffer, length, _buffer, 0, _have -= length);
            return (status, text);
        }

        /// <summary>Sends bytes and closes; the status of the first answer, 0 for none.</summary>
        public static int Throw(string path, byte[] bytes)
        {
            using var client = new Client(path);
            try
            {
                client._socket.Send(bytes);
                client._socket.Shutdown(SocketShutdown.Send);
                var head = client.ReadHead();
                return int.Parse(head.AsSpan(9, 3), CultureInfo.InvariantCulture);
            }
            catch (Exception e) when (e is SocketException { SocketErrorCode: not SocketError.TimedOut } or EndOfStreamException)
            {
                // Dropped without a word: it was none that could be answered.
                return 0;
            }
        }

        private static int Header(string head, string name)
        {
            var at = head.IndexOf("\r\n" + name + ": ", StringComparison.OrdinalIgnoreCase);
            return at < 0 ? 0 : int.Parse(head[(at + name.Length + 4)..].Split('\r')[0], CultureInfo.InvariantCulture);
        }

        private string ReadHead()
        {
            int end;
            while ((end = _buffer.AsSpan(0, _have).IndexOf("\r\n\r\n"u8)) < 0)
                Fill();
            var head = Encoding.ASCII.GetString(_buffer, 0, end + 4);
            Buffer.BlockCopy(_buffer, end + 4, _buffer, 0, _have -= end + 4);
            return head;
        }

        private void Fill()
        {
            if (_have == _buffer.Length)
                Array.Resize(ref _buffer, _have * 2);
            var count = _socket.Receive(_buffer, _have, _buffer.Length - _have, SocketFlags.None);
            if (count == 0)
                throw new EndOfStreamException();
            _have += count;
        }
    }
}
