using System.Collections.Concurrent;
using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A disk in memory that notes what it is asked, is what a test says it is, and keeps requests back while the test wants that.</summary>
internal sealed class RecordingDisk(long capacity = 1 << 20, int blockSize = 512) : IBlockBackend
{
    private readonly MemoryBackend _inner = new(capacity, blockSize);
    private readonly Lock _lock = new();
    private readonly List<Channel> _channels = [];
    private bool _holds;

    public event EventHandler? InfoChanged;

    public string Description => "recording";

    public BlockInfo Info { get; private set; } = new() { Capacity = capacity, BlockSize = blockSize, HasWriteCache = true, MaxDiscard = capacity, DiscardAlignment = blockSize, MaxWriteZeroes = capacity };

    public bool MayBlock => false;

    /// <summary>What it was asked, oldest first.</summary>
    internal ConcurrentQueue<string> Asked { get; } = new();

    /// <summary>How a request ends; as the memory says when null.</summary>
    internal Func<BlockRequest, Errno?>? End { get; set; }

    /// <summary>How many requests are kept back.</summary>
    internal int Held
    {
        get
        {
            lock (_lock)
                return _channels.Sum(static c => c.Held);
        }
    }

    public IBlockChannel OpenChannel(int depth, bool ownsThread = true)
    {
        var channel = new Channel(this, _inner.OpenChannel(depth, ownsThread), depth);
        lock (_lock)
            _channels.Add(channel);
        return channel;
    }

    public void Dispose() => _inner.Dispose();

    internal void Become(BlockInfo info)
    {
        Info = info;
        InfoChanged?.Invoke(this, EventArgs.Empty);
    }

    internal void Hold()
    {
        lock (_lock)
            _holds = true;
    }

    internal void Release()
    {
        lock (_lock)
        {
            _holds = false;
            foreach (var channel in _channels)
                channel.Release();
        }
    }

    private sealed class Channel(RecordingDisk disk, IBlockChannel inner, int depth) : IBlockChannel
    {
        private readonly Queue<BlockRequest> _held = new();
        private readonly Queue<BlockRequest> _done = new();
        private readonly EventFd _signal = new();

        public int Depth => depth;

        public FileDescriptor? Completion => _signal.Descriptor;

        public BlockWays Ways => default;

        internal int Held => _held.Count;

        public bool Submit(BlockRequest request)
        {
            disk.Asked.Enqueue(request.Operation is BlockOperation.Flush ? "flush" : $"{request.Operation} {request.Offset} {request.Length}{(request.MayUnmap ? " unmap" : "")}");
            lock (disk._lock)
            {
                if (disk._holds)
                {
                    _held.Enqueue(request);
                    return false;
                }
            }

            Do(request);
            return true;
        }

        public void Commit()
        {
        }

        public BlockRequest? TryReap()
        {
            lock (disk._lock)
            {
                if (!_done.TryDequeue(out var request))
                    return null;
                Do(request);
                return request;
            }
        }

        public void Wait(int milliseconds) => _signal.Wait(TimeSpan.FromMilliseconds(milliseconds));

        public void Dispose()
        {
            lock (disk._lock)
                disk._channels.Remove(this);
            inner.Dispose();
            _signal.Dispose();
        }

        internal void Release()
        {
            while (_held.TryDequeue(out var request))
                _done.Enqueue(request);
            _signal.Signal();
        }

        private void Do(BlockRequest request)
        {
            if (disk.End?.Invoke(request) is { } error)
                request.Result = error;
            else
                inner.Submit(request);
        }
    }
}
