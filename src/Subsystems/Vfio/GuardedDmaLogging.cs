using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The driver's log of written pages, called as the device is.</summary>
internal sealed class GuardedDmaLogging(VfioHandle handle, IVfioDmaLoggingOps ops) : IVfioDmaLoggingOps
{
    public bool TryStart(ref ulong pageSize, ReadOnlySpan<IovaRange> ranges, out Fault fault)
    {
        if (!handle.TryEnter(out fault))
            return false;
        try
        {
            return ranges.IsEmpty
                ? VfioHandle.Refuse(Errno.EINVAL, "no range is named whose pages are to be logged", out fault)
                : ops.TryStart(ref pageSize, ranges, out fault);
        }
        finally
        {
            handle.Leave();
        }
    }

    public void Stop()
    {
        if (!handle.TryEnter(out _))
            return;
        try
        {
            ops.Stop();
        }
        finally
        {
            handle.Leave();
        }
    }

    public bool CanReport(IovaRange range, ulong pageSize, out Fault fault)
    {
        if (!handle.TryEnter(out fault))
            return false;
        try
        {
            return ops.CanReport(range, pageSize, out fault);
        }
        finally
        {
            handle.Leave();
        }
    }

    public bool TryReport(IovaRange range, ulong pageSize, Span<ulong> bitmap, out Fault fault)
    {
        if (!handle.TryEnter(out fault))
            return false;
        try
        {
            return ops.TryReport(range, pageSize, bitmap, out fault);
        }
        finally
        {
            handle.Leave();
        }
    }
}
