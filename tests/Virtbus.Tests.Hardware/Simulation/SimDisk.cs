using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>
/// A disk whose requests are done at once or when the simulation says so, in any order. It touches the memory of a request while that is in flight and at no
/// other moment.
/// </summary>
internal sealed class SimDisk : IBlockBackend
{
    public const int Sectors = 16;
    public const int SectorSize = 512;

    private readonly VirtioSimulation _sim;
    private readonly List<Channel> _channels = [];

    public SimDisk(VirtioSimulation sim) => _sim = sim;

    public event EventHandler? InfoChanged
    {
        add { }
        remove { }
    }

    public byte[] Content { get; } = new byte[Sectors * SectorSize];

    public string Description => "simulation";

    public bool MayBlock => false;

    public BlockInfo Info { get; } = new() { Capacity = Sectors * SectorSize, HasWriteCache = true };

    public int InFlight => _channels.Sum(static c => c.InFlight);

    public IBlockChannel OpenChannel(int depth, bool ownsThread = true)
    {
        var channel = new Channel(this);
        _channels.Add(channel);
        return channel;
    }

    /// <summary>Ends one request, any.</summary>
    /// <returns>False when there was none.</returns>
    public bool EndOne()
    {
        var waiting = _channels.FindAll(static c => c.InFlight > 0);
        if (waiting.Count == 0)
            return false;
        waiting[_sim.Next(waiting.Count)].EndOne();
        return true;
    }

    public void Dispose()
    {
    }

    private Errno Do(BlockRequest request)
    {
        var at = (int)request.Offset;
        if (request.Operation is not (BlockOperation.Read or BlockOperation.Write))
            return Errno.None;
        foreach (var run in request.Runs)
        {
            var part = Content.AsSpan(at, (int)run.Length);
            if (request.Operation == BlockOperation.Read)
                part.CopyTo(run.AsSpan());
            else
                run.AsSpan().CopyTo(part);
            at += part.Length;
        }

        return Errno.None;
    }

    private sealed class Channel(SimDisk disk) : IBlockChannel
    {
        private readonly List<BlockRequest> _inFlight = [];
        private readonly Queue<BlockRequest> _done = new();

        public int InFlight => _inFlight.Count;

        public int Depth => 8;

        public FileDescriptor? Completion => null;

        public BlockWays Ways => default;

        public bool Submit(BlockRequest request)
        {
            if (disk._sim.Next(3) == 0)
            {
                request.Result = disk.Do(request);
                return true;
            }

            _inFlight.Add(request);
            return false;
        }

        public void Commit()
        {
        }

        public BlockRequest? TryReap() => _done.TryDequeue(out var request) ? request : null;

        public void Wait(int milliseconds)
        {
            while (_inFlight.Count > 0)
                EndOne();
        }

        public void EndOne()
        {
            var at = disk._sim.Next(_inFlight.Count);
            var request = _inFlight[at];
            _inFlight.RemoveAt(at);
            request.Result = disk.Do(request);
            _done.Enqueue(request);
        }

        public void Dispose()
        {
            disk._sim.Require(_inFlight.Count == 0, "a channel is closed with requests in flight");
            disk._channels.Remove(this);
        }
    }
}
