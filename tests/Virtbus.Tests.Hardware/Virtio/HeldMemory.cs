using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A slot's memory reached by messages, again and again behind its own place, whose peer answers none while it is held: as a VMM at a register access of its guest.</summary>
internal sealed class HeldMemory(FunctionSlot slot) : IRemoteMemory
{
    private readonly object _gate = new();
    private bool _isHeld;
    private int _waiting;
    private Errno _error;

    internal int Calls { get; private set; }

    /// <summary>What is asked from now on is answered with a fault; None ends that.</summary>
    internal Errno Error
    {
        set
        {
            lock (_gate)
                _error = value;
        }
    }

    internal int Waiting
    {
        get
        {
            lock (_gate)
                return _waiting;
        }
    }

    public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
    {
        if (!TryAnswer(out fault))
            return false;
        slot.Memory.Read((address.Value - FunctionSlot.MemoryAddress) % FunctionSlot.MemorySize, destination);
        return true;
    }

    public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (!TryAnswer(out fault))
            return false;
        slot.Memory.Write((address.Value - FunctionSlot.MemoryAddress) % FunctionSlot.MemorySize, source);
        return true;
    }

    internal void Hold()
    {
        lock (_gate)
            _isHeld = true;
    }

    /// <summary>Answers what waits, with a fault or well.</summary>
    internal void Release(Errno error = Errno.None)
    {
        lock (_gate)
        {
            _isHeld = false;
            _error = error;
            Monitor.PulseAll(_gate);
            while (error != Errno.None && _waiting > 0)
                Monitor.Wait(_gate);
            _error = Errno.None;
        }
    }

    private bool TryAnswer(out Fault fault)
    {
        lock (_gate)
        {
            Calls++;
            _waiting++;
            while (_isHeld)
                Monitor.Wait(_gate);
            _waiting--;
            Monitor.PulseAll(_gate);
            fault = _error == Errno.None ? Fault.None : new Fault(_error, "refused");
            return _error == Errno.None;
        }
    }
}
