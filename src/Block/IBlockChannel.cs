using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// One queue's way into a backend. A synchronous backend finishes requests in <see cref="Submit"/>; an asynchronous one (io_uring) collects
/// them, starts them together in <see cref="Commit"/> and hands them back by <see cref="TryReap"/>. Used by the queue's thread only;
/// no call allocates.
/// </summary>
public interface IBlockChannel : IDisposable
{
    /// <summary>How many requests can usefully be in flight: 1 for a synchronous backend, at most the depth asked for.</summary>
    int Depth { get; }

    /// <summary>Readable when <see cref="TryReap"/> has something; null when requests never outlive <see cref="Submit"/>.</summary>
    FileDescriptor? Completion { get; }

    /// <summary>Takes a request.</summary>
    /// <param name="request">The request; its <see cref="BlockRequest.Result"/> is set when it is done.</param>
    /// <returns>True when it is done already; false when it will come back by <see cref="TryReap"/>.</returns>
    bool Submit(BlockRequest request);

    /// <summary>Starts what was submitted since the last call.</summary>
    void Commit();

    /// <summary>Takes back a request that is done.</summary>
    /// <returns>The request, or null when none is done now.</returns>
    BlockRequest? TryReap();
}
