using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Models;

/// <summary>A disk that tells of each request before it does it.</summary>
internal sealed class LookingBackend(IBlockBackend inner, Action look) : IBlockBackend
{
    public event EventHandler? InfoChanged
    {
        add { }
        remove { }
    }

    public string Description => inner.Description;

    public BlockInfo Info => inner.Info;

    public bool MayBlock => inner.MayBlock;

    public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => new Channel(inner.OpenChannel(depth, ownsThread), look);

    public void Dispose()
    {
    }

    private sealed class Channel(IBlockChannel inner, Action look) : IBlockChannel
    {
        public int Depth => inner.Depth;

        public FileDescriptor? Completion => inner.Completion;

        public BlockWays Ways => inner.Ways;

        public bool Submit(BlockRequest request)
        {
            look();
            return inner.Submit(request);
        }

        public void Commit() => inner.Commit();

        public BlockRequest? TryReap() => inner.TryReap();

        public void Wait(int milliseconds) => inner.Wait(milliseconds);

        public void Dispose() => inner.Dispose();
    }
}
