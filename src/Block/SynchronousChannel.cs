using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>A channel whose requests are done when <see cref="Submit"/> returns.</summary>
internal abstract class SynchronousChannel : IBlockChannel
{
    public int Depth => 1;

    public FileDescriptor? Completion => null;

    public abstract bool Submit(BlockRequest request);

    public void Commit()
    {
    }

    public BlockRequest? TryReap() => null;

    public virtual void Dispose()
    {
    }
}
