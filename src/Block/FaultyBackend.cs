using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// A back end in front of another one that fails, delays, tears and reorders requests on purpose, by a plan and a seed: for tests of what stands
/// on a back end. The other one gets the requests one at a time, in an order that the seed decides; nothing depends on time.
/// </summary>
public sealed class FaultyBackend : IBlockBackend
{
    private readonly IBlockBackend _inner;
    private FaultPlan _plan;
    private int _channels;

    /// <summary>Makes one.</summary>
    /// <param name="inner">The back end behind it; it stays the caller's.</param>
    /// <param name="plan">What to do to requests.</param>
    public FaultyBackend(IBlockBackend inner, FaultPlan plan)
    {
        ArgumentNullException.ThrowIfNull(inner);
        ArgumentNullException.ThrowIfNull(plan);
        _inner = inner;
        _plan = plan;
        inner.InfoChanged += OnInfoChanged;
    }

    /// <inheritdoc/>
    public event EventHandler? InfoChanged;

    /// <inheritdoc/>
    public string Description => "faulty " + _inner.Description;

    /// <inheritdoc/>
    public BlockInfo Info => _inner.Info;

    /// <summary>What is done to requests from now on; the draws go on. From any thread.</summary>
    public FaultPlan Plan
    {
        get => Volatile.Read(ref _plan);
        set => Volatile.Write(ref _plan, value);
    }

    /// <inheritdoc/>
    public IBlockChannel OpenChannel(int depth, bool ownsThread = true)
    {
        var inner = _inner.OpenChannel(1, ownsThread);
        return new Channel(this, inner, depth, Plan.Seed + Interlocked.Increment(ref _channels) - 1);
    }

    /// <summary>Lets go of the back end behind it, which stays open.</summary>
    public void Dispose() => _inner.InfoChanged -= OnInfoChanged;

    private void OnInfoChanged(object? sender, EventArgs e) => InfoChanged?.Invoke(this, EventArgs.Empty);

    private sealed class Channel : IBlockChannel
    {
        private readonly FaultyBackend _backend;
        private readonly IBlockChannel _inner;
        private readonly EventFd _signal = new();
        private readonly Random _draw;
        private readonly List<(BlockRequest Request, int Looks)> _held;
        private readonly BlockRequest _torn = new();
        private readonly IoVector[] _tornRuns = GC.AllocateArray<IoVector>(1024, pinned: true);

        internal Channel(FaultyBackend backend, IBlockChannel inner, int depth, int seed)
        {
            _backend = backend;
            _inner = inner;
            _draw = new Random(seed);
            _held = new List<(BlockRequest, int)>(depth);
            Depth = depth;
        }

        public int Depth { get; }

        public FileDescriptor? Completion => _signal.Descriptor;

        public BlockWays Ways => _inner.Ways;

        public bool Submit(BlockRequest request)
        {
            var plan = _backend.Plan;
            var looks = 0;
            if (plan.Where?.Invoke(request) != false && Hits(plan.Delay))
                looks = _draw.Next(1, Math.Max(plan.LongestDelay, 1) + 1);
            _held.Add((request, looks));
            return false;
        }

        public void Commit()
        {
            if (_held.Count > 0)
                _signal.Signal();
        }

        public BlockRequest? TryReap()
        {
            if (_held.Count == 0)
                return null;
            var plan = _backend.Plan;
            var start = plan.Reorder ? _draw.Next(_held.Count) : 0;
            for (var i = 0; i < _held.Count; i++)
            {
                var at = (start + i) % _held.Count;
                var (request, looks) = _held[at];
                if (looks > 0)
                    continue;
                _held.RemoveAt(at);
                request.Result = Decide(plan, request);
                return request;
            }

            for (var i = 0; i < _held.Count; i++)
                _held[i] = (_held[i].Request, _held[i].Looks - 1);
            // The waiter comes and looks again: so the delay ends.
            _signal.Signal();
            return null;
        }

        public void Wait(int milliseconds)
        {
            if (_held.Count == 0)
                _signal.Wait(TimeSpan.FromMilliseconds(milliseconds));
        }

        public void Dispose()
        {
            _inner.Dispose();
            _signal.Dispose();
        }

        private bool Hits(double share) => _draw.NextDouble() < share;

        private Errno Decide(FaultPlan plan, BlockRequest request)
        {
            // The draws are the same whatever comes of them.
            var (fails, error, tears, part) = (Hits(plan.Fail), _draw.Next(int.MaxValue), Hits(plan.Tear), _draw.NextDouble());
            if (plan.Where?.Invoke(request) == false)
                return _inner.Do(request);
            if (fails)
                return plan.Errors.Count == 0 ? Errno.EIO : plan.Errors[error % plan.Errors.Count];
            if (!tears || request.Operation is not (BlockOperation.Read or BlockOperation.Write) || request.Runs.Length > _tornRuns.Length)
                return _inner.Do(request);
            var size = _backend.Info.BlockSize;
            DoPart(request, (long)(part * (request.Length / size)) * size);
            return Errno.EIO;
        }

        private void DoPart(BlockRequest request, long length)
        {
            var count = 0;
            var left = length;
            foreach (var run in request.Runs)
            {
                if (left == 0)
                    break;
                var size = (nuint)Math.Min((long)run.Length, left);
                _tornRuns[count++] = new IoVector(run.Address, size);
                left -= (long)size;
            }

            if (length == 0)
                return;
            _torn.Operation = request.Operation;
            _torn.Offset = request.Offset;
            _torn.Length = length;
            _torn.SetRuns(_tornRuns.AsSpan(0, count));
            _inner.Do(_torn);
        }
    }
}
