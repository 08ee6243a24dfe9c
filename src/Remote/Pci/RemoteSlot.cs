using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>The slot that a function is in: who uses its port counts, so that an unplug waits until nobody does. Not from one who does.</summary>
internal sealed class RemoteSlot
{
    private readonly UseGate _gate = new(isOpen: false);
    private IPciPort? _port;

    internal void Open(IPciPort port)
    {
        if (Interlocked.CompareExchange(ref _port, port, null) is not null)
            throw new InvalidOperationException("The function is in a slot already.");
        _gate.Open();
    }

    /// <summary>Takes the slot away, and waits until nobody uses it.</summary>
    internal void Close()
    {
        _gate.Close();
        Volatile.Write(ref _port, null);
    }

    /// <summary>Begins to use the slot; to be ended by <see cref="Leave"/>.</summary>
    internal bool TryEnter(out IPciPort port)
    {
        var isIn = _gate.TryEnter();
        port = isIn ? Volatile.Read(ref _port)! : null!;
        return isIn;
    }

    internal void Leave() => _gate.Leave();
}
