using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The log of what one requester writes, made of its <see cref="DmaPort"/> and a <see cref="DirtyLog"/>. Safe from any thread.</summary>
/// <param name="port">The requester's way to memory; writes with a PASID count too.</param>
public sealed class VfioDmaLogging(DmaPort port) : IVfioDmaLoggingOps
{
    private readonly Lock _lock = new();
    private DirtyLog? _log;

    /// <inheritdoc/>
    public bool TryStart(ref ulong pageSize, ReadOnlySpan<IovaRange> ranges, out Fault fault)
    {
        lock (_lock)
        {
            if (_log is not null)
            {
                fault = new Fault(Errno.EINVAL, "the log of written pages runs already");
                return false;
            }
            if (!DirtyLog.TryCreate(pageSize, ranges, out var log, out fault) || !port.TryStartLog(log!, out fault))
                return false;
            _log = log;
            pageSize = log!.PageSize;
            return true;
        }
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (_lock)
        {
            if (_log is null)
                return;
            port.StopLog();
            _log = null;
        }
    }

    /// <inheritdoc/>
    public bool CanReport(IovaRange range, ulong pageSize, out Fault fault)
    {
        lock (_lock)
            return IsRunning(out fault) && DirtyLog.CanRead(range, pageSize, out fault);
    }

    /// <inheritdoc/>
    public bool TryReport(IovaRange range, ulong pageSize, Span<ulong> bitmap, out Fault fault)
    {
        lock (_lock)
            return IsRunning(out fault) && _log!.TryReadAndClear(range, pageSize, bitmap, out fault);
    }

    private bool IsRunning(out Fault fault)
    {
        fault = _log is not null ? Fault.None : new Fault(Errno.EINVAL, "the log of written pages does not run");
        return _log is not null;
    }
}
