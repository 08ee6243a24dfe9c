namespace Virtbus.Drivers.Nic;

/// <summary>
/// The queue sets of a function. One allocator has all of them, whatever for: what a network interface, an RDMA device or the virtqueues of a
/// vDPA device take comes out of the same number, and who finds it empty is refused whole (MS-06).
/// </summary>
public interface INicQueueSets
{
    /// <summary>How many queue sets the function has.</summary>
    int Total { get; }

    /// <summary>How many of them are out at this moment.</summary>
    int Used { get; }

    /// <summary>Takes a queue set for frames. Not from an interrupt.</summary>
    /// <param name="user">Whom it is for, for the error that another one gets: the part's device, or what that makes of it.</param>
    /// <param name="depth">Buffers a queue: a power of two, 2 to 32,768, or to what the make has.</param>
    /// <returns>The queue set; disposing it gives it back.</returns>
    /// <exception cref="Platform.VirtbusException">ENOSPC: all are out; EINVAL: the depth; ENODEV: the adapter is gone.</exception>
    INicQueueSet Allocate(string user, int depth);
}
