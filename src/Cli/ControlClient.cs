using System.Buffers.Text;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Virtbus.Daemon;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli;

/// <summary>
/// Asks a running daemon over its control socket. One connection a request, HTTP/1.0, blocking: a verb asks once and ends, and a full HTTP
/// client takes longer to start than the answer takes to come.
/// </summary>
internal sealed class ControlClient
{
    private const int MaxHeadBytes = 16 << 10;

    public ControlClient(RuntimeFolder runtime) => Runtime = runtime;

    /// <summary>Whether a daemon has done something that this process asked it to do, other than to tell.</summary>
    public static bool HasChanged { get; private set; }

    /// <summary>The folder whose fabric is asked.</summary>
    public RuntimeFolder Runtime { get; }

    public static ControlClient FromEnvironment() => new(RuntimeFolder.FromEnvironment());

    /// <summary>Asks and reads the whole answer.</summary>
    /// <param name="method">GET, PUT or POST.</param>
    /// <param name="path">Path and query; see <see cref="Query"/>.</param>
    /// <param name="body">What is sent along.</param>
    /// <exception cref="VirtbusException">No daemon, or what the daemon answers.</exception>
    public byte[] Ask(string method, string path, byte[]? body = null)
    {
        using var answer = Open(method, path, body);
        using var all = new MemoryStream();
        answer.CopyTo(all);
        return all.ToArray();
    }

    /// <summary>Asks and gives the answer's type.</summary>
    public T Ask<T>(string method, string path, JsonTypeInfo<T> type) => Read(Ask(method, path), type);

    /// <summary>Takes an answer apart.</summary>
    public static T Read<T>(byte[] answer, JsonTypeInfo<T> type) =>
        JsonSerializer.Deserialize(answer, type) ?? throw new VirtbusException(Errno.EPROTO, "The daemon's answer is empty. Is it of another version? Take it down and up again.");

    /// <summary>Writes an attribute.</summary>
    public void Write(string path, string value) => Ask("PUT", Query("/v1/tree", ("path", path)), Encoding.UTF8.GetBytes(value));

    /// <summary>Asks and gives the answer as it comes.</summary>
    public Stream Open(string method, string path, byte[]? body = null)
    {
        var stream = Connect();
        try
        {
            var head = new StringBuilder().Append(method).Append(' ').Append(path).Append(" HTTP/1.0\r\nHost: virtbus\r\n");
            if (body is not null)
                head.Append("Content-Type: text/plain\r\n");
            if (method != "GET")
                head.Append("Content-Length: ").Append(body?.Length ?? 0).Append("\r\n");
            byte[] request = [.. Encoding.ASCII.GetBytes(head.Append("\r\n").ToString()), .. body ?? []];
            stream.Write(request);
            var (status, length, rest) = ReadHead(stream);
            var answer = new AnswerStream(stream, rest, length);
            if (status is >= 200 and < 300)
            {
                HasChanged |= method != "GET";
                return answer;
            }
            throw Refusal(status, answer);
        }
        catch (Exception e)
        {
            stream.Dispose();
            if (e is IOException)
                throw new VirtbusException(Errno.ECONNRESET, $"The daemon of {Runtime.Path} closed the connection. {Runtime.LogFile} may say why.", e);
            throw;
        }
    }

    /// <summary>A path with a query.</summary>
    public static string Query(string path, params (string Name, string Value)[] pairs) =>
        path + "?" + string.Join('&', pairs.Select(p => $"{p.Name}={Uri.EscapeDataString(p.Value)}"));

    private NetworkStream Connect()
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            if (!FileStatus.TryGet(Runtime.Path, out _, out var error))
                throw error is Errno.ENOENT or Errno.ENOTDIR ? NotRunning(null) : MayNot(Runtime.Path, error, null);
            // Whoever else could enter the folder could have put the socket there.
            Runtime.Check();
            socket.Connect(new UnixDomainSocketEndPoint(Runtime.ControlSocket));
            return new NetworkStream(socket, ownsSocket: true);
        }
        catch (Exception e)
        {
            socket.Dispose();
            if (e is SocketException { SocketErrorCode: SocketError.AccessDenied })
                throw MayNot(Runtime.ControlSocket, Errno.EACCES, e);
            if (e is SocketException or ArgumentOutOfRangeException)
                throw NotRunning(e);
            throw;
        }
    }

    private VirtbusException NotRunning(Exception? cause) =>
        new(Errno.ECONNREFUSED, $"No fabric is running in {Runtime.Path}. Start one with 'virtbus up'.", cause);

    private static VirtbusException MayNot(string path, Errno error, Exception? cause) =>
        new(error, $"{path} can't be reached: {error}. Run as the user whose fabric it is, or set VIRTBUS_RUNTIME to a folder of your own.", cause);

    private static VirtbusException Refusal(int status, Stream answer)
    {
        ErrorAnswer? error = null;
        try
        {
            error = JsonSerializer.Deserialize(answer, ApiJson.Default.ErrorAnswer);
        }
        catch (JsonException)
        {
            // Below, the status says what there is to say.
        }
        if (error is null)
            return new VirtbusException(Errno.EPROTO, $"The daemon answers with HTTP status {status}. Is it of another version? Take it down and up again.");
        return new VirtbusException(Enum.TryParse<Errno>(error.Errno, out var errno) ? errno : Errno.EIO, error.Message);
    }

    private static (int Status, long? Length, byte[] Tail) ReadHead(NetworkStream stream)
    {
        var buffer = new byte[MaxHeadBytes];
        var filled = 0;
        while (true)
        {
            var end = buffer.AsSpan(0, filled).IndexOf("\r\n\r\n"u8);
            if (end >= 0)
            {
                var head = buffer.AsSpan(0, end);
                if (head.Length < 12 || !head.StartsWith("HTTP/1."u8) || !Utf8Parser.TryParse(head[9..12], out int status, out _))
                    break;
                return (status, ContentLength(Encoding.ASCII.GetString(head)), buffer[(end + 4)..filled]);
            }
            var read = filled == buffer.Length ? 0 : stream.Read(buffer, filled, buffer.Length - filled);
            if (read == 0 && filled == 0)
                throw new IOException("The connection ended before the answer began.");
            if (read == 0)
                break;
            filled += read;
        }
        throw new VirtbusException(Errno.EPROTO, "What listens on the control socket is no daemon of this program.");
    }

    private static long? ContentLength(string head)
    {
        const string Name = "\r\nContent-Length:";
        var at = head.IndexOf(Name, StringComparison.OrdinalIgnoreCase);
        if (at < 0)
            return null;
        var value = head.AsSpan(at + Name.Length);
        var end = value.IndexOf('\r');
        return long.TryParse((end < 0 ? value : value[..end]).Trim(), out var length) ? length : null;
    }

    /// <summary>The body of an answer: what came with the head, then the rest of the connection. One that breaks off early is an error.</summary>
    private sealed class AnswerStream(NetworkStream connection, byte[] first, long? length) : Stream
    {
        private int _taken;
        private long _read;

        public override bool CanRead => true;

        public override bool CanSeek => false;

        public override bool CanWrite => false;

        public override long Length => throw new NotSupportedException();

        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

        public override int Read(Span<byte> buffer)
        {
            if (buffer.IsEmpty || _read == length)
                return 0;
            int read;
            if (_taken < first.Length)
            {
                read = Math.Min(buffer.Length, first.Length - _taken);
                first.AsSpan(_taken, read).CopyTo(buffer);
                _taken += read;
            }
            else
            {
                read = connection.Read(buffer);
            }
            _read += read;
            if (read == 0 && length is { } whole)
                throw new IOException($"The answer ends after {_read} of {whole} bytes.");
            return read;
        }

        public override void Flush()
        {
        }

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        protected override void Dispose(bool disposing)
        {
            if (disposing)
                connection.Dispose();
            base.Dispose(disposing);
        }
    }
}
