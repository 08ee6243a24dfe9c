using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// One queue's way into a back end. A request may be done when <see cref="Submit"/> returns; else it is collected with others, started by
/// <see cref="Commit"/>, and comes back by <see cref="TryReap"/>. Used by one thread at a time; no call allocates.
/// </summary>
public interface IBlockChannel : IDisposable
{
    /// <summary>How many requests can usefully be in flight: 1 where all are done in <see cref="Submit"/>, at most the depth asked for.</summary>
    int Depth { get; }

    /// <summary>
    /// Signalled when <see cref="TryReap"/> has something new after it had nothing; null when requests never outlive <see cref="Submit"/>. To be
    /// waited on edge triggered (<see cref="Epoll"/>), once TryReap answered null: nobody need read it, and a signal may come for what was reaped
    /// already.
    /// </summary>
    FileDescriptor? Completion { get; }

    /// <summary>Which ways the requests went; readable from any thread.</summary>
    BlockWays Ways { get; }

    /// <summary>Takes a request. What it is about is checked by the caller: <see cref="BlockInfo.Holds"/>.</summary>
    /// <param name="request">The request; its <see cref="BlockRequest.Result"/> is set when it is done.</param>
    /// <returns>True when it is done already; false when it will come back by <see cref="TryReap"/>.</returns>
    bool Submit(BlockRequest request);

    /// <summary>Starts what was submitted since the last call.</summary>
    void Commit();

    /// <summary>Takes back a request that is done.</summary>
    /// <returns>The request, or null when none is done now.</returns>
    BlockRequest? TryReap();

    /// <summary>Waits until <see cref="TryReap"/> may have something, for a thread that waits for nothing else.</summary>
    /// <param name="milliseconds">How long at most; -1 for as long as it takes.</param>
    void Wait(int milliseconds);
}
