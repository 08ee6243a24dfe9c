using Virtbus.Pci;

namespace Virtbus.Remote.Pci;

/// <summary>A function's slot: who uses it counts, so that an unplug waits until nobody does. Not from one who does.</summary>
internal sealed class RemoteGate
{
    private readonly object _lock = new();
    private IPciPort? _port;
    private int _users;

    internal void Open(IPciPort port)
    {
        lock (_lock)
        {
            if (_port is not null)
                throw new InvalidOperationException("The function is in a slot already.");
            _port = port;
        }
    }

    /// <summary>Takes the slot away, and waits until nobody uses it.</summary>
    internal void Close()
    {
        lock (_lock)
        {
            _port = null;
            while (_users > 0)
                Monitor.Wait(_lock);
        }
    }

    /// <summary>Begins to use the slot; to be ended by <see cref="Leave"/>.</summary>
    internal bool TryEnter(out IPciPort port)
    {
        lock (_lock)
        {
            port = _port!;
            if (_port is null)
                return false;
            _users++;
            return true;
        }
    }

    internal void Leave()
    {
        lock (_lock)
        {
            if (--_users == 0)
                Monitor.PulseAll(_lock);
        }
    }
}
