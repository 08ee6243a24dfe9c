using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The log of what a device writes (VFIO_DEVICE_FEATURE_DMA_LOGGING_*).</summary>
public interface IVfioDmaLoggingOps
{
    /// <summary>Starts it.</summary>
    /// <param name="pageSize">The page size wanted; the one taken at return.</param>
    /// <param name="ranges">What is logged; the core refuses none.</param>
    /// <param name="fault">EINVAL: no range, alignment, overlap, started already; E2BIG: more than 256; EOVERFLOW: one wraps.</param>
    bool TryStart(ref ulong pageSize, ReadOnlySpan<IovaRange> ranges, out Fault fault);

    /// <summary>Stops it; without effect when it does not run.</summary>
    void Stop();

    /// <summary>Whether a report of a range would be given. The log keeps what it has: for who must do something else first that may fail.</summary>
    /// <param name="range">What would be asked for.</param>
    /// <param name="pageSize">Bytes a bit.</param>
    /// <param name="fault">As for <see cref="TryReport"/>. Ops that do not say it themselves have the arguments looked at, no more.</param>
    bool CanReport(IovaRange range, ulong pageSize, out Fault fault) => DirtyLog.CanRead(range, pageSize, out fault);

    /// <summary>Sets the bits of pages that were written, and clears the log of them.</summary>
    /// <param name="range">What is asked for.</param>
    /// <param name="pageSize">Bytes a bit.</param>
    /// <param name="bitmap">Bit n for page n of the range; bits that are set stay set.</param>
    /// <param name="fault">EINVAL: page size, alignment, or the log does not run.</param>
    bool TryReport(IovaRange range, ulong pageSize, Span<ulong> bitmap, out Fault fault);
}
