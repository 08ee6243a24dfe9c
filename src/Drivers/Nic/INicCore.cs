using Virtbus.Core;

namespace Virtbus.Drivers.Nic;

/// <summary>
/// What a core driver offers its parts: commands, queue sets, events. It hides which make and generation of adapter is below, and whether it
/// is a physical function or a virtual one, so one part driver serves all of them (MS-05, MS-08). Valid until the part's device is deleted.
/// </summary>
public interface INicCore
{
    /// <summary>The hardware's device: parent of what parts register with their subsystems (VB-17).</summary>
    Device Device { get; }

    /// <summary>True while the link carries.</summary>
    bool IsLinkUp { get; }

    /// <summary>Asks the adapter who it is.</summary>
    /// <exception cref="Platform.VirtbusException">EIO: the hardware does not answer as it should.</exception>
    NicIdentity Identify();

    /// <summary>Takes a queue set from the one allocator that all parts share (MS-06). Not from an interrupt.</summary>
    /// <param name="depth">Buffers per queue: a power of two, 2 to 32,768.</param>
    /// <returns>The queue set; disposing it gives it back.</returns>
    /// <exception cref="Platform.VirtbusException">ENOSPC: all are out; EINVAL: the depth; ENODEV: the adapter is gone.</exception>
    NicQueues AllocateQueues(int depth);

    /// <summary>Makes a virtio block function on a medium that was put into the adapter. Not from an interrupt.</summary>
    /// <param name="name">The function's name.</param>
    /// <param name="medium">The medium's name.</param>
    /// <param name="serial">What it answers to GET_ID.</param>
    /// <param name="queues">Request queues.</param>
    /// <returns>The function; disposing it gives it back.</returns>
    /// <exception cref="Platform.VirtbusException">ENOENT: no such medium; EINVAL: a text or the queues; ENOSPC: no window or vector is left.</exception>
    INicVirtioFunction CreateBlockFunction(string name, string medium, string serial, int queues);

    /// <summary>Has a handler told of events until the result is disposed. It runs on the thread that causes the event and must not block.</summary>
    /// <param name="handler">The handler.</param>
    IDisposable Subscribe(Action<NicEvent> handler);
}
