using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// Keeps the cache mode that a disk's driver chose, for longer than the device and its program live: a driver that asked for write-through
/// sends no flush any more and relies on it. Safe from any thread.
/// </summary>
public interface ICacheModeStore
{
    /// <summary>Whether the disk has a write-back cache, which a flush empties; else each write is durable when it is answered.</summary>
    bool IsWriteback { get; }

    /// <summary>Keeps another mode.</summary>
    /// <param name="writeback">Whether the disk is to have a write-back cache.</param>
    /// <param name="fault">What the host answered; the mode is then as before.</param>
    /// <returns>True when it is kept, so that it outlives this process at once.</returns>
    bool TryKeep(bool writeback, out Fault fault);
}
