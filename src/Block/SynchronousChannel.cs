using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>A channel whose requests are done when <see cref="Submit"/> returns.</summary>
internal abstract class SynchronousChannel : IBlockChannel
{
    private ulong _done;

    public int Depth => 1;

    public FileDescriptor? Completion => null;

    public BlockWays Ways => new(Volatile.Read(ref _done), 0, 0);

    public bool Submit(BlockRequest request)
    {
        _done++;
        request.Result = Do(request);
        return true;
    }

    public void Commit()
    {
    }

    public BlockRequest? TryReap() => null;

    public void Wait(int milliseconds)
    {
    }

    public virtual void Dispose()
    {
    }

    /// <summary>Does what the request wants.</summary>
    protected abstract Errno Do(BlockRequest request);
}
