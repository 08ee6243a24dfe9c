using System.Text;
using System.Text.Json;
using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>
/// The mounts of a fabric, and the socket by which one comes: whoever mounts, in whatever namespace, sends the descriptor that it was mounted with, and the
/// daemon answers what is asked by it. One line each way; only the fabric's user gets at the socket.
/// </summary>
public sealed class FuseMounts : IAsyncDisposable
{
    private const int MostAtOnce = 8;
    private const int MostBytes = 16 << 10;
    private const int Patience = 5000;

    private readonly Fabric _fabric;
    private readonly ILogger _log;
    private readonly Func<CancellationToken, Task>? _settle;
    private readonly ConnectionAcceptor _acceptor;
    private readonly LogLimiter _limiter;
    private readonly EventFd _end = new();
    private readonly Lock _lock = new();
    private readonly List<FuseMount> _mounts = [];
    private bool _isOver;

    private FuseMounts(Fabric fabric, UnixListener listener, Func<CancellationToken, Task>? settle)
    {
        (_fabric, _settle, _log) = (fabric, settle, fabric.LoggerFactory.CreateLogger("Virtbus.Fuse"));
        _limiter = new LogLimiter(fabric.Time, 4, TimeSpan.FromMinutes(1));
        _acceptor = new ConnectionAcceptor(listener, "fuse mount", fabric.Time, Take, OnAcceptFailed, MostAtOnce);
        Path = listener.Path;
    }

    /// <summary>The socket's path.</summary>
    public string Path { get; }

    /// <summary>The mounts that are there, the oldest first.</summary>
    public IReadOnlyList<FuseMount> Mounts
    {
        get
        {
            lock (_lock)
                return [.. _mounts];
        }
    }

    /// <summary>Opens the socket.</summary>
    /// <param name="fabric">Whose tree is mounted.</param>
    /// <param name="path">The socket's path.</param>
    /// <param name="settle">What a write waits for beside its own end; null for nothing.</param>
    /// <exception cref="VirtbusException">As <see cref="UnixListener.Listen"/>.</exception>
    public static FuseMounts Listen(Fabric fabric, string path, Func<CancellationToken, Task>? settle = null)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        var listener = UnixListener.Listen(path);
        try
        {
            var mounts = new FuseMounts(fabric, listener, settle);
            mounts._acceptor.Start();
            return mounts;
        }
        catch
        {
            listener.Dispose();
            throw;
        }
    }

    /// <summary>Has a daemon serve a mount; the other side of <see cref="Listen"/>. Returns when it does.</summary>
    /// <param name="connection">A connection to its socket.</param>
    /// <param name="device">The descriptor of <c>/dev/fuse</c> that it was mounted with; stays the caller's, who closes it.</param>
    /// <param name="request">Where it is, and whose.</param>
    /// <exception cref="VirtbusException">What the daemon answers; ECONNRESET, ETIMEDOUT: it answers nothing.</exception>
    public static void Ask(UnixStream connection, FileDescriptor device, FuseMountRequest request)
    {
        ArgumentNullException.ThrowIfNull(connection);
        var line = JsonSerializer.SerializeToUtf8Bytes(request, FuseJson.Default.FuseMountRequest);
        if (connection.Send([.. line, (byte)'\n'], [device], out var error) < 0)
            throw new VirtbusException(error, $"The daemon does not take the mount of {request.Folder}: {error}. Its log may say why.");
        var descriptors = new List<FileDescriptor>();
        var answer = JsonSerializer.Deserialize(ReadLine(connection, descriptors, null), FuseJson.Default.FuseMountAnswer)!;
        descriptors.ForEach(static d => d.Dispose());
        if (answer.Errno is not Errno.None)
            throw new VirtbusException(answer.Errno, answer.Message);
    }

    /// <summary>Ends all mounts: who waits for an answer gets an error. The folders stay mounted, and say so, until they are unmounted.</summary>
    public async ValueTask DisposeAsync()
    {
        lock (_lock)
            _isOver = true;
        _end.Signal();
        await _acceptor.StopAsync();
        foreach (var mount in Mounts)
            await mount.DisposeAsync();
        _end.Dispose();
    }

    private void Take(UnixStream connection)
    {
        using (connection)
        {
            var descriptors = new List<FileDescriptor>();
            var answer = new FuseMountAnswer(Errno.None, "");
            try
            {
                var line = ReadLine(connection, descriptors, _end);
                Serve(JsonSerializer.Deserialize(line, FuseJson.Default.FuseMountRequest) ?? throw new JsonException("nothing"), descriptors);
            }
            catch (VirtbusException e)
            {
                answer = new FuseMountAnswer(e.Errno, e.Message);
            }
            catch (JsonException e)
            {
                answer = new FuseMountAnswer(Errno.EINVAL, $"The request is no mount: {e.Message}");
            }

            // What was not taken over.
            descriptors.ForEach(static d => d.Dispose());
            _ = connection.Send([.. JsonSerializer.SerializeToUtf8Bytes(answer, FuseJson.Default.FuseMountAnswer), (byte)'\n'], [], out _);
        }
    }

    private void Serve(FuseMountRequest request, List<FileDescriptor> descriptors)
    {
        if (descriptors.Count != 1 || string.IsNullOrEmpty(request.Folder))
            throw new VirtbusException(Errno.EINVAL, $"A mount is asked for with a folder and one descriptor of /dev/fuse; {descriptors.Count} came.");
        lock (_lock)
        {
            if (_isOver)
                throw new VirtbusException(Errno.ECANCELED, "The fabric is going down.");
            var device = descriptors[0];
            descriptors.Clear();
            var mount = FuseMount.Serve(_fabric, device, new FuseMountOptions { Folder = request.Folder, User = request.User, Group = request.Group, Settle = _settle });
            _mounts.Add(mount);
            _ = ForgetAsync(mount);
        }
    }

    private async Task ForgetAsync(FuseMount mount)
    {
        await mount.Ended;
        lock (_lock)
            _mounts.Remove(mount);
    }

    private static string ReadLine(UnixStream connection, List<FileDescriptor> descriptors, EventFd? end)
    {
        var line = new byte[MostBytes];
        var length = 0;
        while (line.AsSpan(0, length).IndexOf((byte)'\n') < 0)
        {
            if (length == line.Length)
                throw new VirtbusException(Errno.EMSGSIZE, $"A line of a mount's socket has more than {MostBytes} bytes.");
            if (!Polling.Wait(connection.Descriptor, forWriting: false, end, Patience))
                throw new VirtbusException(Errno.ETIMEDOUT, "Nothing more comes over a mount's socket.");
            var count = connection.Receive(line.AsSpan(length), descriptors, out var error);
            if (count == 0 || (count < 0 && error != Errno.EAGAIN))
                throw new VirtbusException(count == 0 ? Errno.ECONNRESET : error, "The other side of a mount's socket went in the middle.");
            length += Math.Max(count, 0);
        }

        return Encoding.UTF8.GetString(line, 0, length);
    }

    private void OnAcceptFailed(Errno errno)
    {
        if (_limiter.TryTake(out var suppressed))
            FuseLog.AcceptFailed(_log, Path, errno, suppressed);
    }
}
