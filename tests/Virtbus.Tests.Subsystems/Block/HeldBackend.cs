using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Subsystems.Block;

/// <summary>A disk whose reads end when the test says so, or never; all else is done at once.</summary>
internal sealed class HeldBackend : IBlockBackend
{
    private readonly Lock _lock = new();
    private readonly List<Channel> _channels = [];
    private BlockInfo _info = new()
    {
        Capacity = 1 << 20,
        BlockSize = 512,
        PhysicalBlockExponent = 3,
        AlignmentOffset = 1,
        OptimalIoSize = 65536,
        MaxDiscard = 1 << 19,
        DiscardAlignment = 4096,
        MaxWriteZeroes = 1 << 18,
        MaxTransfer = 1 << 17,
        HasWriteCache = true,
    };

    public event EventHandler? InfoChanged;

    public string Description => "held";

    public BlockInfo Info
    {
        get
        {
            var info = _info;
            InfoAsked?.Invoke();
            return info;
        }
    }

    /// <summary>Called when somebody has looked at what it is, and not gone on yet.</summary>
    internal Action? InfoAsked { get; set; }

    /// <summary>Whether all requests are held, and not only reads.</summary>
    internal bool HoldsAll { get; set; }

    /// <summary>How many channels are open.</summary>
    internal int Open
    {
        get
        {
            lock (_lock)
                return _channels.Count;
        }
    }

    internal void Become(BlockInfo info)
    {
        _info = info;
        InfoChanged?.Invoke(this, EventArgs.Empty);
    }

    /// <summary>Ends what is held.</summary>
    internal void Release(Errno result = Errno.None)
    {
        lock (_lock)
            _channels.ForEach(c => c.Release(result));
    }

    /// <summary>What is asked how blocks are kept, while the test wants to hold that up.</summary>
    internal Action? Asked { get; set; }

    /// <summary>Whether the channels throw when they are closed.</summary>
    internal bool ThrowsAtClose { get; set; }

    public BlockExtent FindExtent(long offset, long length)
    {
        Asked?.Invoke();
        return new BlockExtent(length, IsHole: true);
    }

    public IBlockChannel OpenChannel(int depth, bool ownsThread = true)
    {
        var channel = new Channel(this);
        lock (_lock)
            _channels.Add(channel);
        return channel;
    }

    public void Dispose()
    {
    }

    private sealed class Channel(HeldBackend backend) : IBlockChannel
    {
        private readonly EventFd _signal = new();
        private readonly Queue<BlockRequest> _held = new();
        private readonly Queue<BlockRequest> _done = new();

        public int Depth => 16;

        public FileDescriptor? Completion => _signal.Descriptor;

        public BlockWays Ways => default;

        public bool Submit(BlockRequest request)
        {
            request.Result = Errno.None;
            if (request.Operation != BlockOperation.Read && !backend.HoldsAll)
                return true;
            lock (_held)
                _held.Enqueue(request);
            return false;
        }

        public void Commit()
        {
        }

        public BlockRequest? TryReap()
        {
            lock (_held)
                return _done.TryDequeue(out var request) ? request : null;
        }

        public void Wait(int milliseconds) => Polling.Wait(_signal.Descriptor, forWriting: false, cancel: null, milliseconds);

        public void Dispose()
        {
            lock (backend._lock)
                backend._channels.Remove(this);
            _signal.Dispose();
            if (backend.ThrowsAtClose)
                throw new InvalidOperationException("the driver's channel");
        }

        internal void Release(Errno result)
        {
            lock (_held)
            {
                while (_held.TryDequeue(out var request))
                {
                    request.Result = result;
                    _done.Enqueue(request);
                }
            }

            _signal.Signal();
        }
    }
}
