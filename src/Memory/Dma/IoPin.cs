using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>Memory that an <see cref="IoAccess"/> holds in place. The holder stops using it, then disposes this.</summary>
public sealed class IoPin : IDisposable
{
    private readonly IoAddressSpace _space;
    private readonly IoVector[] _runs;
    private int _disposed;

    internal IoPin(IoAddressSpace space, IoAccess owner, IovaRange range, DmaAccess access, IReadOnlyList<IoMapping> mappings)
    {
        _space = space;
        Owner = owner;
        Range = range;
        Access = access;
        Mappings = mappings;
        _runs = new IoVector[mappings.Count];
        for (var i = 0; i < _runs.Length; i++)
        {
            var mapping = mappings[i];
            var memory = mapping.Memory!.Acquire();
            var first = Math.Max(range.Start.Value, mapping.Start);
            var last = Math.Min(range.Last, mapping.Last);
            _runs[i] = new IoVector(memory.Address + (nint)(mapping.Offset + (first - mapping.Start)), (nuint)(last - first + 1));
        }
    }

    /// <summary>What is pinned.</summary>
    public IovaRange Range { get; }

    /// <summary>What it was pinned for.</summary>
    public DmaAccess Access { get; }

    /// <summary>The memory, in the order of its addresses; valid until this is disposed.</summary>
    public ReadOnlySpan<IoVector> Runs
    {
        get
        {
            ObjectDisposedException.ThrowIf(Volatile.Read(ref _disposed) != 0, this);
            return _runs;
        }
    }

    internal IoAccess Owner { get; }

    internal IReadOnlyList<IoMapping> Mappings { get; }

    internal bool Overlaps(ulong first, ulong last) => Range.Start.Value <= last && Range.Last >= first;

    /// <summary>Lets go.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        _space.Unpin(this);
        // The pin has references of its own: a space that is disposed does not wait for pins.
        foreach (var mapping in Mappings)
            mapping.Memory!.Dispose();
    }
}
