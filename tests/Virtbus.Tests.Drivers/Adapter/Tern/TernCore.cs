using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.Adapter.Tern;

/// <summary>What the third make offers: a link that always carries, and two queue sets. No virtio functions, no migration.</summary>
internal sealed class TernCore(PciDevice device, IReadOnlyList<PciVector> vectors) : INicCore, INicLink, INicQueueSets
{
    private readonly Lock _lock = new();
    private readonly TernQueueSet?[] _sets = new TernQueueSet?[TernFunction.Ports];

    public Device Device => device;

    public bool IsLinkUp => true;

    public int Total => _sets.Length;

    public int Used
    {
        get
        {
            lock (_lock)
                return _sets.Count(s => s is not null);
        }
    }

    public T? Find<T>()
        where T : class => this as T;

    public ulong ReadAddress(int port)
    {
        var registers = device.GetRegion(0);
        return (registers.Read32(TernFunction.AddressLow) | ((ulong)registers.Read32(TernFunction.AddressHigh) << 32)) + (ulong)port;
    }

    public IDisposable Subscribe(Action<NicEvent> handler) => new Nothing();

    public INicQueueSet Allocate(string user, int depth)
    {
        lock (_lock)
        {
            var port = Array.IndexOf(_sets, null);
            if (port < 0)
                throw new VirtbusException(Errno.ENOSPC, $"Adapter {device.Name} has 0 of {Total} queue sets left, and {user} wants 1. Take an interface down.");
            return _sets[port] = new TernQueueSet(device, port, vectors[port], Free);
        }
    }

    private void Free(int port)
    {
        lock (_lock)
            _sets[port] = null;
    }

    private sealed class Nothing : IDisposable
    {
        public void Dispose()
        {
        }
    }
}
