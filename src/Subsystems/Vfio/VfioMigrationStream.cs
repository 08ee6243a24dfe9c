using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The data of a migration: what Linux gives as a descriptor. Opaque, in order; how it is cut has no meaning.</summary>
public abstract class VfioMigrationStream : IDisposable
{
    /// <summary>Reads the device's state (while saving).</summary>
    /// <param name="destination">Where to.</param>
    /// <param name="count">Bytes read; 0 at the end of the stream.</param>
    /// <param name="fault">ENOMSG: nothing more for now, while pre-copying; EINVAL: not a stream to read; ENODEV: the session is over.</param>
    public abstract bool TryRead(Span<byte> destination, out int count, out Fault fault);

    /// <summary>Writes a device's state (while resuming).</summary>
    /// <param name="source">The next bytes.</param>
    /// <param name="fault">EINVAL: not a stream to write, or not a state of such a device; ENODEV: the session is over.</param>
    public abstract bool TryWrite(ReadOnlySpan<byte> source, out Fault fault);

    /// <summary>What is left while pre-copying (VFIO_MIG_GET_PRECOPY_INFO).</summary>
    /// <param name="initialBytes">Bytes that should be read before the device is stopped; falls to 0.</param>
    /// <param name="dirtyBytes">Bytes that changed since they were read.</param>
    /// <param name="fault">EINVAL: not pre-copying.</param>
    public abstract bool TryGetPreCopyInfo(out ulong initialBytes, out ulong dirtyBytes, out Fault fault);

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Lets go of the stream.</summary>
    /// <param name="disposing">Always true.</param>
    protected virtual void Dispose(bool disposing)
    {
    }
}
