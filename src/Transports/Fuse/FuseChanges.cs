using System.Collections.Concurrent;
using System.Text;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Transports.Fuse;

/// <summary>
/// Tells the kernel of what changed: names that are gone, links that lead elsewhere, attributes that somebody polls. On a thread that answers no request,
/// since a notice may wait for who holds a folder, and that one for an answer.
/// </summary>
internal sealed class FuseChanges : IDisposable
{
    private const string Name = "fuse changes";
    private const int EventsWaiting = 16 << 10;
    private static readonly TimeSpan TimeToTell = TimeSpan.FromSeconds(1);

    private readonly FabricTree _tree;
    private readonly FuseNodes _nodes;
    private readonly FuseHandles _handles;
    private readonly FuseWrite _write;
    private readonly UeventSubscription _events;
    private readonly BlockingCollection<Action> _work = [];
    private readonly ServiceThread _thread;
    private readonly UeventLog _log;
    private readonly Lock _lock = new();
    private readonly List<(long Seqnum, TaskCompletionSource Told)> _waiting = [];
    private long _told;
    private int _isOver;

    /// <summary>Begins.</summary>
    /// <param name="tree">The tree.</param>
    /// <param name="events">Where devices come and go.</param>
    /// <param name="session">What the kernel knows.</param>
    /// <param name="write">Writes a notice.</param>
    internal FuseChanges(FabricTree tree, UeventLog events, FuseSession session, FuseWrite write)
    {
        (_tree, _nodes, _handles, _write) = (tree, session.Nodes, session.Handles, write);
        _thread = ServiceThread.Start(Name, Run);
        _log = events;
        _events = events.Subscribe(EventsWaiting);
        _told = events.Seqnum;
        _tree.AttributeChanged += OnChanged;
        _ = Task.Run(ListenAsync);
    }

    /// <summary>
    /// Ends when the kernel was told of all that has happened up to now, so that whoever did it sees no name of before; after a while though, should somebody
    /// hold a folder.
    /// </summary>
    internal async Task ToldAsync()
    {
        var told = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_lock)
        {
            var now = _log.Seqnum;
            if (_told >= now)
                return;
            _waiting.Add((now, told));
        }

        try
        {
            await told.Task.WaitAsync(TimeToTell);
        }
        catch (TimeoutException)
        {
            // The kernel asks again after as long.
        }
    }

    /// <summary>Tells nothing more. Returns when what is under way is told.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isOver, 1) != 0)
            return;
        _tree.AttributeChanged -= OnChanged;
        _events.Dispose();
        _work.CompleteAdding();
        _thread.Join();
        _work.Dispose();
    }

    private async Task ListenAsync()
    {
        while (await _events.ReadAsync() is { Events.Count: > 0 } batch)
            Add(() => Tell(batch));
    }

    private void OnChanged(object? sender, AttributeChangedEventArgs change)
    {
        if (_handles.WatchersOf(change.Owner, change.Name).Length > 0)
            Add(() => Wake(_handles.WatchersOf(change.Owner, change.Name)));
    }

    private void Add(Action work)
    {
        try
        {
            _work.Add(work);
        }
        catch (InvalidOperationException)
        {
            // It is over.
        }
    }

    private void Run()
    {
        // What goes wrong with one costs the others nothing.
        foreach (var work in _work.GetConsumingEnumerable())
            ServiceThread.Guard(Name, work);
    }

    private void Tell(UeventBatch batch)
    {
        if (batch.Lost > 0)
        {
            foreach (var node in _nodes.All())
                Check(node);
        }

        var paths = batch.Events.Select(static e => e.DevPath).ToHashSet();
        foreach (var path in paths)
            Tell(path);
        foreach (var owner in _handles.WatchedOwners())
        {
            if (owner is Device device && (batch.Lost > 0 || paths.Contains(device.DevPath)))
                Wake(_handles.WatchersOf(device, null));
        }

        lock (_lock)
        {
            _told = batch.Events[^1].Seqnum;
            foreach (var (_, told) in _waiting.Where(w => w.Seqnum <= _told))
                told.SetResult();
            _waiting.RemoveAll(w => w.Seqnum <= _told);
        }
    }

    // What came, went or changed is in its own place, in what shows it by a link, and in folders that are there only as long as something is in them.
    private void Tell(string path)
    {
        var above = new List<FuseNode>();
        if (_nodes.Find(path, above) is { } node && Check(node))
        {
            foreach (var child in _nodes.ChildrenOf(node))
                Check(child);
        }

        foreach (var link in _nodes.LinksTo(path))
            Check(link);
        for (var i = above.Count - 1; i > 0 && above[i].Entry is TreeDirectory { Owner: null }; i--)
            Check(above[i]);
    }

    // Whether the name still leads to the same.
    private bool Check(FuseNode node)
    {
        if (node.Parent is not { } folder)
            return true;
        TreeNode? now;
        try
        {
            now = FuseNodes.Current(folder)?.Find(node.Name);
        }
        catch (VirtbusException)
        {
            // What can't say what it has is looked at when somebody asks.
            return true;
        }

        if (now is { IsGone: false } && now.IsSameAs(node.Entry))
            return true;
        if (_nodes.TryDetach(node))
            Forget(folder, node.Name);
        return false;
    }

    // Not as deleted: that takes the lock of the file itself, which whoever writes to it holds until they are answered.
    private void Forget(FuseNode folder, string name)
    {
        // struct fuse_notify_inval_entry_out; the name and a NUL follow.
        const int fields = 16;
        var bytes = Encoding.UTF8.GetBytes(name);
        var body = new byte[fields + bytes.Length + 1];
        BitConverter.TryWriteBytes(body, folder.Id);
        BitConverter.TryWriteBytes(body.AsSpan(fields - 8), (uint)bytes.Length);
        bytes.CopyTo(body, fields);
        Send(FuseProtocol.FUSE_NOTIFY_INVAL_ENTRY, body);
    }

    private void Wake(FuseHandle[] handles)
    {
        var body = new byte[sizeof(ulong)];
        foreach (var handle in handles)
        {
            handle.IsChanged = true;
            BitConverter.TryWriteBytes(body, Volatile.Read(ref handle.Poller));
            Send(FuseProtocol.FUSE_NOTIFY_POLL, body);
        }
    }

    private void Send(int code, ReadOnlySpan<byte> body)
    {
        Span<byte> message = new byte[FuseProtocol.OutHeaderSize + body.Length];
        body.CopyTo(message[FuseProtocol.OutHeaderSize..]);
        // The kernel need not know the name any more, nor who waited.
        FuseReply.Write(message, code, 0, _write);
    }
}
