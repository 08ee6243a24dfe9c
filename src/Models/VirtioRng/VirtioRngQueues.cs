using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Models.VirtioRng;

/// <summary>The data path: a buffer, random bytes, the used ring. Runs on the queue's thread.</summary>
internal sealed class VirtioRngQueues(Action<Span<byte>> fill) : IQueueProcessor
{
    // The most of one buffer: a device may hand back less than was asked for (5.4.6.1), and a guest shall not keep the thread.
    private const int MostBytes = 4096;
    private const int SpareRuns = 64;

    private readonly byte[] _bytes = new byte[MostBytes];
    private DescriptorChain _chain = new(1);
    private DeviceRing _ring = null!;
    private ulong _requests;
    private ulong _total;

    public (ulong Requests, ulong Bytes, ulong Errors) Counters => (Volatile.Read(ref _requests), Volatile.Read(ref _total), 0);

    public void Start(DeviceRing ring, VirtioFeatures features)
    {
        _ring = ring;
        // Runs beyond one for each descriptor, for buffers that cross region borders.
        if (_chain.Capacity < ring.Size + SpareRuns)
            _chain = new DescriptorChain(ring.Size + SpareRuns);
    }

    public bool Process(out Fault fault)
    {
        if (!_ring.TryTake(_chain, out fault))
            return false;
        var bytes = _bytes.AsSpan(0, (int)Math.Min(_chain.WritableLength, MostBytes));
        fill(bytes);
        var written = _chain.Write(bytes);
        // Nobody else is to have the same.
        bytes.Clear();
        _ring.Complete(_chain, written);
        _requests++;
        _total += written;
        return true;
    }

    public void Drain()
    {
    }

    public void Dispose()
    {
    }
}
