using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.DataPath;

/// <summary>A disk of one MiB that keeps nothing and counts how often it was to make all durable, as fdatasync does.</summary>
internal sealed class CountingBackend : IBlockBackend, IBlockChannel
{
    private int _flushes;

    public int Flushes => Volatile.Read(ref _flushes);

    public string Description => "counting";

    public long Capacity => 1 << 20;

    public int BlockSize => 512;

    public bool IsReadOnly => false;

    public int Depth => 1;

    public FileDescriptor? Completion => null;

    public IBlockChannel OpenChannel(int depth) => this;

    public bool Submit(BlockRequest request)
    {
        if (request.Operation == BlockOperation.Flush)
            Interlocked.Increment(ref _flushes);
        request.Result = Errno.None;
        return true;
    }

    public void Commit()
    {
    }

    public BlockRequest? TryReap() => null;

    public void Dispose()
    {
    }
}
