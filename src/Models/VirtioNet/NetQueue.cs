using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Models.VirtioNet;

/// <summary>What a transmit and a receive queue have in common: chains in which buffers are taken, and what is counted. On the queue's thread.</summary>
internal abstract class NetQueue : IQueueProcessor
{
    /// <summary>Frames of a turn.</summary>
    protected const int Batch = 32;

    // Runs beyond one for each descriptor, for buffers that cross region borders.
    private const int SpareRuns = 64;

    private readonly int _mostChains;
    private int _capacity;
    private ulong _frames;
    private ulong _bytes;
    private ulong _lost;

    protected NetQueue(int mostChains) => _mostChains = mostChains;

    public (ulong Requests, ulong Bytes, ulong Errors) Counters => (Volatile.Read(ref _frames), Volatile.Read(ref _bytes), Volatile.Read(ref _lost));

    public virtual bool IsFull => false;

    protected DeviceRing Ring { get; private set; } = null!;

    protected DescriptorChain[] Chains { get; private set; } = [];

    /// <summary>Where the buffers of a short way go; made at the first start.</summary>
    protected RingRun[] Runs { get; private set; } = [];

    protected int HeaderSize { get; private set; }

    public virtual void Start(DeviceRing ring, VirtioFeatures features)
    {
        Ring = ring;
        HeaderSize = NetHeader.SizeFor(features);
        if (Runs.Length == 0)
            Runs = new RingRun[Batch];
        var capacity = ring.Size + SpareRuns;
        if (capacity <= _capacity)
            return;
        _capacity = capacity;
        Chains = [];
        TryGrow();
    }

    public abstract bool Process(out Fault fault);

    public virtual void Drain()
    {
    }

    public virtual void Abandon()
    {
    }

    public virtual void Dispose()
    {
    }

    /// <summary>Twice as many chains; they come as so many are wanted for the first time, and stay.</summary>
    protected bool TryGrow()
    {
        if (Chains.Length >= _mostChains)
            return false;
        var chains = new DescriptorChain[Math.Clamp(Chains.Length * 2, 1, _mostChains)];
        for (var i = 0; i < chains.Length; i++)
            chains[i] = i < Chains.Length ? Chains[i] : new DescriptorChain(_capacity);
        Chains = chains;
        return true;
    }

    protected void Count(int bytes)
    {
        _frames++;
        _bytes += (ulong)bytes;
    }

    protected void Lose() => _lost++;
}
