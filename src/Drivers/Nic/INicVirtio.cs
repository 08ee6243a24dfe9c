namespace Virtbus.Drivers.Nic;

/// <summary>Virtio functions that an adapter makes inside of itself.</summary>
public interface INicVirtio
{
    /// <summary>
    /// Makes a virtio block function on a medium that was put into the adapter. Each of its virtqueues is a queue set of
    /// <see cref="INicQueueSets"/>. Not from an interrupt.
    /// </summary>
    /// <param name="name">The function's name.</param>
    /// <param name="medium">The medium's name.</param>
    /// <param name="serial">What it answers to GET_ID.</param>
    /// <param name="queues">Request queues.</param>
    /// <param name="packed">Whether it offers packed rings.</param>
    /// <returns>The function; disposing it gives it and its queue sets back.</returns>
    /// <exception cref="Platform.VirtbusException">ENOENT: no such medium; EINVAL: a text or the queues; ENOSPC: not so many queue sets, or no window, are left; nothing is taken then.</exception>
    INicVirtioFunction CreateBlockFunction(string name, string medium, string serial, int queues, bool packed);
}
