using Virtbus.Buses.Pci;
using Virtbus.Platform;

namespace Virtbus.Drivers.NicRings;

/// <summary>
/// Has all queue sets of a function, each with the interrupt vector that belongs to it. Every part takes from it, be it one queue set for frames
/// or as many as a virtio function has virtqueues (MS-06). Any thread.
/// </summary>
internal sealed class NicQueueAllocator
{
    private readonly Lock _lock = new();
    private readonly PciDevice _device;
    private readonly Stack<PciVector> _free;
    private readonly SortedDictionary<string, int> _users = new(StringComparer.Ordinal);

    internal NicQueueAllocator(PciDevice device, int queueSets, IEnumerable<PciVector> vectors)
    {
        _device = device;
        _free = new Stack<PciVector>(vectors.Take(queueSets).Reverse());
        Total = _free.Count;
    }

    /// <summary>How many the function has.</summary>
    internal int Total { get; }

    /// <summary>How many are out.</summary>
    internal int Used
    {
        get
        {
            lock (_lock)
                return Total - _free.Count;
        }
    }

    /// <summary>Takes as many as are wanted, or none.</summary>
    /// <param name="user">Whom they are for.</param>
    /// <param name="count">How many.</param>
    /// <exception cref="VirtbusException">ENOSPC: there are not so many left; who has the others is said.</exception>
    internal PciVector[] Take(string user, int count)
    {
        lock (_lock)
        {
            if (count > _free.Count)
            {
                var users = _users.Count == 0 ? "" : " Out are: " + string.Join(", ", _users.Select(u => $"{u.Key} {u.Value}")) + ".";
                throw new VirtbusException(
                    Errno.ENOSPC,
                    $"Adapter {_device.Name} has {_free.Count} of {Total} queue sets left, and {user} wants {count}.{users} Take an interface down or remove a disk.");
            }
            var taken = new PciVector[count];
            for (var i = 0; i < count; i++)
                taken[i] = _free.Pop();
            _users[user] = _users.GetValueOrDefault(user) + count;
            return taken;
        }
    }

    /// <summary>Gives some back that were taken; their handlers do not run any more when this returns.</summary>
    internal void Return(string user, ReadOnlySpan<PciVector> taken)
    {
        if (taken.IsEmpty)
            return;
        foreach (var vector in taken)
            vector.SetHandler(null);
        lock (_lock)
        {
            foreach (var vector in taken)
                _free.Push(vector);
            if ((_users[user] -= taken.Length) == 0)
                _users.Remove(user);
        }
    }
}
