using System.Collections.Concurrent;
using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Transports.Nbd;

/// <summary>A disk in memory that takes short requests, makes no zeros, notes what it is asked, and fails as it is told.</summary>
internal sealed class PiecesBackend : IBlockBackend
{
    private readonly MemoryBackend _memory = new(1 << 20);
    private readonly ConcurrentQueue<(BlockOperation, long, long, bool)> _asked = new();
    private volatile int _error;

    public event EventHandler? InfoChanged
    {
        add { }
        remove { }
    }

    internal Errno Error
    {
        get => (Errno)_error;
        set => _error = (int)value;
    }

    public string Description => "pieces";

    public BlockInfo Info { get; internal set; } = new() { Capacity = 1 << 20, MaxTransfer = 16384, MaxDiscard = 8192 };

    public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => new Channel(this, _memory.OpenChannel(depth));

    public void Dispose() => _memory.Dispose();

    /// <summary>What it was asked since the last call.</summary>
    internal List<(BlockOperation, long, long, bool)> Take()
    {
        List<(BlockOperation, long, long, bool)> all = [];
        while (_asked.TryDequeue(out var one))
            all.Add(one);
        return all;
    }

    private sealed class Channel(PiecesBackend backend, IBlockChannel inner) : IBlockChannel
    {
        public int Depth => 1;

        public FileDescriptor? Completion => null;

        public BlockWays Ways => default;

        public bool Submit(BlockRequest request)
        {
            backend._asked.Enqueue((request.Operation, request.Offset, request.Length, request.IsDurable));
            if (backend.Error == Errno.None)
                return inner.Submit(request);
            request.Result = backend.Error;
            return true;
        }

        public void Commit()
        {
        }

        public BlockRequest? TryReap() => null;

        public void Wait(int milliseconds)
        {
        }

        public void Dispose() => inner.Dispose();
    }
}
