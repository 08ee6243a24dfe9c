using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Transports.Nbd;

/// <summary>A large disk without content that takes a block at a time, and its time for zeros, so that gigabytes of them take hours.</summary>
internal sealed class SlowZeroesBackend : IBlockBackend
{
    private readonly ManualResetEventSlim _never = new();
    private int _pieces;

    public event EventHandler? InfoChanged
    {
        add { }
        remove { }
    }

    /// <summary>How many blocks it was asked to make zeros.</summary>
    internal int Pieces => Volatile.Read(ref _pieces);

    public string Description => "slow zeroes";

    public BlockInfo Info { get; } = new() { Capacity = 8L << 30, MaxWriteZeroes = 512, MaxTransfer = 512 };

    public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => new Channel(this);

    public void Dispose() => _never.Dispose();

    private sealed class Channel(SlowZeroesBackend backend) : IBlockChannel
    {
        public int Depth => 1;

        public FileDescriptor? Completion => null;

        public BlockWays Ways => default;

        public bool Submit(BlockRequest request)
        {
            request.Result = Errno.None;
            if (request.Operation == BlockOperation.WriteZeroes)
            {
                Interlocked.Increment(ref backend._pieces);
                backend._never.Wait(1);
            }

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
}
