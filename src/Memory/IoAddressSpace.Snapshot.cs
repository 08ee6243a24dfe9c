namespace Virtbus.Memory;

/// <content>The map as it is at one moment, for who gives it to somebody else.</content>
public sealed partial class IoAddressSpace
{
    /// <summary>The ranges of this process's memory as they are now.</summary>
    /// <returns>A map, with one reference that belongs to the caller.</returns>
    public IoMap Snapshot()
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            return SnapshotLocked();
        }
    }

    /// <summary>The ranges as they are now, none when the space is gone.</summary>
    internal IoMap SnapshotOrEmpty()
    {
        lock (_lock)
            return _disposed ? IoMap.CreateEmpty() : SnapshotLocked();
    }

    private IoMap SnapshotLocked()
    {
        _current ??= new IoMap([.. _index.All().Where(mapping => mapping.Memory is not null)
            .Select(mapping => new IoRange(mapping.Range.Start, mapping.Range.Size, mapping.Memory!, mapping.Offset, mapping.Access))]);
        return _current.Acquire();
    }

    private void Forget()
    {
        _current?.Dispose();
        _current = null;
    }
}
