using Virtbus.Buses.Pci;
using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>The function's interrupt vectors, shared out among queue sets and virtio queues.</summary>
internal sealed class NicVectors
{
    private readonly Lock _lock = new();
    private readonly PciDevice _device;
    private readonly Stack<PciVector> _free;

    internal NicVectors(PciDevice device, IEnumerable<PciVector> vectors)
    {
        _device = device;
        _free = new Stack<PciVector>(vectors.Reverse());
    }

    /// <summary>Takes one.</summary>
    /// <exception cref="VirtbusException">ENOSPC: all are out.</exception>
    internal PciVector Take()
    {
        lock (_lock)
        {
            return _free.TryPop(out var vector)
                ? vector
                : throw new VirtbusException(Errno.ENOSPC, $"Adapter {_device.Name} has no interrupt vector left. Take an interface down or remove a disk.");
        }
    }

    /// <summary>Gives one back; its handler does not run any more when this returns.</summary>
    internal void Return(PciVector vector)
    {
        vector.SetHandler(null);
        lock (_lock)
            _free.Push(vector);
    }
}
