using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests;

/// <summary>A disk of one MiB that keeps nothing and counts how often it was to make all durable, as fdatasync does.</summary>
internal sealed class CountingBackend : IBlockBackend, IBlockChannel
{
    private int _flushes;

    public int Flushes => Volatile.Read(ref _flushes);

    public string Description => "counting";

    public event EventHandler? InfoChanged
    {
        add { }
        remove { }
    }

    public BlockInfo Info { get; } = new() { Capacity = 1 << 20, MaxDiscard = 1 << 20, DiscardAlignment = 512, MaxWriteZeroes = 1 << 20 };

    public BlockWays Ways => default;

    public int Depth => 1;

    public FileDescriptor? Completion => null;

    public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => this;

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

    public void Wait(int milliseconds)
    {
    }

    public void Dispose()
    {
    }
}
