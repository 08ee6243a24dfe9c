using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>A stream of the driver's, called as the device is.</summary>
internal sealed class GuardedStream(VfioHandle handle, VfioMigrationStream stream) : VfioMigrationStream
{
    public override bool TryRead(Span<byte> destination, out int count, out Fault fault)
    {
        count = 0;
        if (!handle.TryEnter(out fault))
            return false;
        try
        {
            return stream.TryRead(destination, out count, out fault);
        }
        finally
        {
            handle.Leave();
        }
    }

    public override bool TryWrite(ReadOnlySpan<byte> source, out Fault fault)
    {
        if (!handle.TryEnter(out fault))
            return false;
        try
        {
            return stream.TryWrite(source, out fault);
        }
        finally
        {
            handle.Leave();
        }
    }

    public override bool TryGetPreCopyInfo(out ulong initialBytes, out ulong dirtyBytes, out Fault fault)
    {
        initialBytes = dirtyBytes = 0;
        if (!handle.TryEnter(out fault))
            return false;
        try
        {
            return stream.TryGetPreCopyInfo(out initialBytes, out dirtyBytes, out fault);
        }
        finally
        {
            handle.Leave();
        }
    }

    protected override void Dispose(bool disposing) => stream.Dispose();
}
