namespace Virtbus.Hardware.VirtioPci;

/// <summary>
/// The ISR status byte, and the line that follows it (VIRTIO 1.3, 4.1.4.5). Any thread; it needs no turn with other registers. Whoever changes it shows
/// the line afterwards, under no lock.
/// </summary>
internal sealed class VirtioInterruptStatus(IVirtioUnitPort port)
{
    internal const byte Queue = 1;
    internal const byte Config = 2;

    private readonly Lock _lock = new();
    private byte _value;

    /// <summary>What stands there, without the effect of a read.</summary>
    internal byte Value
    {
        get
        {
            lock (_lock)
                return _value;
        }
    }

    /// <summary>Sets bits; the line is to be asserted.</summary>
    internal void Set(byte bits)
    {
        lock (_lock)
        {
            _value |= bits;
            port.StageLine(_value != 0);
        }
    }

    /// <summary>Reads it as a driver does: it is cleared, and the line is to be asserted no more.</summary>
    internal byte Take()
    {
        byte value;
        lock (_lock)
        {
            value = _value;
            _value = 0;
            port.StageLine(false);
        }

        return value;
    }
}
