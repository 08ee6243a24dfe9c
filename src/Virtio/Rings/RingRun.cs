using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// A buffer of one descriptor over one run of host memory, taken by <see cref="DeviceRing.TakeRuns"/>. Good in the stay that it was taken in, and not a
/// moment longer: nothing else keeps its memory.
/// </summary>
public readonly struct RingRun
{
    private readonly IoVector _memory;

    internal RingRun(IoVector memory, ushort head)
    {
        _memory = memory;
        Head = head;
    }

    /// <summary>Bytes of it; never 0.</summary>
    public int Length => (int)_memory.Length;

    /// <summary>Its bytes: the driver may change them at any moment, so what is looked at is a copy.</summary>
    public Span<byte> Bytes => _memory.AsSpan();

    /// <summary>Its name when it is handed back, as <see cref="DescriptorChain.Head"/>.</summary>
    internal ushort Head { get; }
}
