using System.Globalization;
using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>
/// A fabric's tree on a folder of the host, served to whoever opens files there. It lasts until it is unmounted or disposed of; either way everybody who
/// waits for an answer gets an error.
/// </summary>
public sealed class FuseMount : IAsyncDisposable
{
    private const int EndBit = 1;
    private readonly ILogger _log;
    private readonly FuseFile _file;
    private readonly FuseSession _session;
    private readonly FuseChanges _changes;
    private readonly EventFd _end = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _lock = new();
    private int _threads;
    private bool _isOver;

    private FuseMount(Fabric fabric, FuseFile file, FuseMountOptions options, ILogger log)
    {
        (_file, _log, Options) = (file, log, options);
        _session = new FuseSession(fabric.Tree, options, log, fabric.Time);
        _changes = new FuseChanges(fabric.Tree, fabric.Uevents, _session, file.Write);
        _session.Told = _changes.ToldAsync;
    }

    /// <summary>What it was made with.</summary>
    public FuseMountOptions Options { get; }

    /// <summary>Ends when nobody can ask any more: it was unmounted, or disposed of.</summary>
    public Task Ended => _ended.Task;

    /// <summary>How many names the kernel knows of it.</summary>
    public int Names => _session.Nodes.Count;

    /// <summary>How many files and folders are open.</summary>
    public int OpenFiles => _session.Handles.Count;

    /// <summary>Serves a mount that was made.</summary>
    /// <param name="fabric">Whose tree.</param>
    /// <param name="device">The descriptor of <c>/dev/fuse</c> that it was mounted with; the mount's from here on.</param>
    /// <param name="options">How.</param>
    /// <exception cref="VirtbusException">EAGAIN: no room for a thread; EMFILE: none for a descriptor.</exception>
    public static FuseMount Serve(Fabric fabric, FileDescriptor device, FuseMountOptions options)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentOutOfRangeException.ThrowIfLessThan(options.Threads, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.Threads, 64);
        var file = FuseFile.Adopt(device);
        try
        {
            var mount = new FuseMount(fabric, file, options, fabric.LoggerFactory.CreateLogger("Virtbus.Fuse"));
            mount.Start();
            return mount;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        // While there are answers: a notice may wait for who holds a folder, and that one for an answer. Their descriptor is one as long as it is written to.
        await Task.Run(_changes.Dispose);
        End();
        await _ended.Task;
    }

    private void Start()
    {
        FuseLog.Mounted(_log, Options.Folder, Options.User);
        _threads = Options.Threads;
        for (var i = 0; i < Options.Threads; i++)
        {
            var clone = i == 0 ? null : _file.TryClone();
            var name = string.Create(CultureInfo.InvariantCulture, $"fuse {i}");
            if (ServiceThread.TryStart(name, () => Serve(clone ?? _file)) is not null)
                continue;
            // With fewer it is slower.
            clone?.Dispose();
            Leave(Options.Threads - i);
            break;
        }
    }

    private void Serve(FuseFile file)
    {
        try
        {
            using var set = new Epoll();
            set.AddShared(file.Descriptor, 0);
            set.Add(_end.Descriptor, EndBit, edge: false);
            var reply = new FuseReply(file.Write);
            var buffer = GC.AllocateUninitializedArray<byte>(FuseProtocol.RequestSize);
            while (!_session.IsOver && (set.Wait(-1) & (1 << EndBit)) == 0)
            {
                var count = file.Read(buffer, out var error);
                if (count > 0)
                    _session.Handle(buffer.AsSpan(0, count), reply);
                // Another thread has it, or whoever asked gave up.
                else if (error is not (Errno.EAGAIN or Errno.EINTR or Errno.ENOENT))
                    break;
            }
        }
        finally
        {
            // So that the others go too.
            End();
            if (file != _file)
                file.Dispose();
            Leave(1);
        }
    }

    private void End()
    {
        lock (_lock)
        {
            if (!_isOver)
                _end.Signal();
        }
    }

    private void Leave(int threads)
    {
        if (Interlocked.Add(ref _threads, -threads) > 0)
            return;
        // With the last descriptor, whoever waits for an answer has an error.
        _file.Dispose();
        _changes.Dispose();
        lock (_lock)
        {
            _isOver = true;
            _end.Dispose();
        }

        FuseLog.Gone(_log, Options.Folder);
        _ended.TrySetResult();
    }
}
