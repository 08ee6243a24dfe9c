using static Virtbus.Pci.PciMsix;

namespace Virtbus.Pci;

/// <summary>
/// The MSI-X table with its pending bits: messages that software wrote, a mask for each, and a pending bit for what came while masked. Usable
/// without a config space. Safe from any thread; raising a vector takes no lock and allocates nothing.
/// </summary>
public sealed class MsixTable
{
    private readonly Lock _lock = new();
    private readonly uint[] _entries;
    private readonly MessageRoutes _routes;
    private bool _isFunctionMasked;

    /// <summary>Makes a table as after a reset: every vector masked, MSI-X disabled.</summary>
    /// <param name="vectors">1 to 2048.</param>
    /// <param name="send">Sends a message: address and data. Called on the thread that raised or unmasked a vector, under no lock.</param>
    /// <param name="find">Looks up what a message reaches, so that it is signalled straight (<see cref="IPciPort.FindTarget"/>); null for never.</param>
    public MsixTable(int vectors, Action<ulong, uint> send, Func<ulong, uint, IPciMessageTarget?>? find = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(vectors, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(vectors, PCI_MSIX_MAX_VECTORS);
        _entries = new uint[vectors * 4];
        _routes = new MessageRoutes(vectors, send, find, null);
        Reset();
    }

    /// <summary>Number of vectors.</summary>
    public int Vectors => _entries.Length / 4;

    /// <summary>Bytes of the table.</summary>
    public int TableSize => _entries.Length * 4;

    /// <summary>Bytes of the pending bits.</summary>
    public int PendingSize => (Vectors + 63) / 64 * 8;

    /// <summary>Whether MSI-X is enabled.</summary>
    public bool IsEnabled => _routes.IsEnabled;

    /// <summary>Whether all vectors are masked at once.</summary>
    public bool IsFunctionMasked => Volatile.Read(ref _isFunctionMasked);

    /// <summary>Reads the table. What lies outside reads as all ones.</summary>
    /// <param name="offset">First byte in the table.</param>
    /// <param name="destination">Where to; any length.</param>
    public void Read(ulong offset, Span<byte> destination)
    {
        lock (_lock)
        {
            for (var i = 0; i < destination.Length; i++)
            {
                var at = offset + (ulong)i;
                destination[i] = at < (ulong)TableSize ? (byte)(_entries[at / 4] >> (8 * (int)(at & 3))) : (byte)0xFF;
            }
        }
    }

    /// <summary>Writes the table; a vector that is unmasked by it and pending is sent. What lies outside is lost.</summary>
    /// <param name="offset">First byte in the table.</param>
    /// <param name="source">Where from; any length.</param>
    public void Write(ulong offset, ReadOnlySpan<byte> source)
    {
        lock (_lock)
        {
            for (var i = 0; i < source.Length; i++)
            {
                var at = offset + (ulong)i;
                if (at >= (ulong)TableSize)
                    break;
                var shift = 8 * (int)(at & 3);
                ref var word = ref _entries[at / 4];
                word = ((word & ~(0xFFu << shift)) | ((uint)source[i] << shift)) & WritableBits((int)(at / 4));
            }
            for (var vector = offset / 16; vector < (ulong)Vectors && vector * 16 < offset + (ulong)source.Length; vector++)
                Publish((int)vector);
        }
        Flush();
    }

    /// <summary>Reads the pending bits. What lies outside reads as all ones. Writes to them have no effect, so there is none.</summary>
    /// <param name="offset">First byte in them.</param>
    /// <param name="destination">Where to; any length.</param>
    public void ReadPending(ulong offset, Span<byte> destination)
    {
        for (var i = 0; i < destination.Length; i++)
        {
            var at = offset + (ulong)i;
            destination[i] = at < (ulong)PendingSize ? (byte)(_routes.Pending((int)(at / 8)) >> (8 * (int)(at & 7))) : (byte)0xFF;
        }
    }

    /// <summary>Sets what the control register of the capability says; what becomes unmasked and is pending is sent.</summary>
    /// <param name="enabled">MSI-X Enable; without it nothing is sent, and nothing is pending.</param>
    /// <param name="functionMasked">Function Mask.</param>
    public void SetControl(bool enabled, bool functionMasked)
    {
        Load(enabled, functionMasked);
        Flush();
    }

    /// <summary>Whether a vector is masked, by itself or with all.</summary>
    /// <param name="vector">From 0.</param>
    public bool IsMasked(int vector)
    {
        lock (_lock)
            return IsHeld(vector);
    }

    /// <summary>Whether a vector is pending.</summary>
    /// <param name="vector">From 0.</param>
    public bool IsPending(int vector)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)vector, (uint)Vectors, nameof(vector));
        return ((_routes.Pending(vector / 64) >> (vector & 63)) & 1) != 0;
    }

    /// <summary>The message of a vector.</summary>
    /// <param name="vector">From 0.</param>
    /// <param name="address">Where it is written to.</param>
    /// <param name="data">What is written.</param>
    public void GetMessage(int vector, out ulong address, out uint data)
    {
        lock (_lock)
            Message(vector, out address, out data);
    }

    /// <summary>Raises a vector: its message is sent, or its pending bit is set while it is masked.</summary>
    /// <param name="vector">From 0.</param>
    /// <returns>False when MSI-X is disabled: nothing happened.</returns>
    public bool Raise(int vector)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)vector, (uint)Vectors, nameof(vector));
        return _routes.Raise(vector);
    }

    /// <summary>Sets everything back: MSI-X disabled, every vector masked and not pending.</summary>
    public void Reset()
    {
        lock (_lock)
        {
            _isFunctionMasked = false;
            Array.Clear(_entries);
            for (var i = 3; i < _entries.Length; i += 4)
                _entries[i] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
            PublishAll();
            _routes.Enable(false);
        }
    }

    /// <summary>
    /// The first half of <see cref="SetControl"/>, for whoever keeps the register under a lock of its own: what becomes due stays pending until
    /// <see cref="Flush"/>, to be called without that lock.
    /// </summary>
    /// <param name="enabled">As for <see cref="SetControl"/>.</param>
    /// <param name="functionMasked">As for <see cref="SetControl"/>.</param>
    public void Load(bool enabled, bool functionMasked)
    {
        lock (_lock)
        {
            if (enabled == IsEnabled && functionMasked == _isFunctionMasked)
                return;
            _isFunctionMasked = functionMasked;
            if (enabled)
                _routes.Enable(true);
            PublishAll(enabled);
            _routes.Enable(enabled);
        }
    }

    /// <summary>Sets whether the function may send; when it may not, no target is signalled straight when this returns.</summary>
    internal void Link(bool linked)
    {
        lock (_lock)
            _routes.Link(linked);
    }

    /// <summary>Sends what is pending and not masked.</summary>
    public void Flush() => _routes.Flush();

    private static uint WritableBits(int word) => (word & 3) switch
    {
        0 => ~3u,
        3 => PCI_MSIX_ENTRY_CTRL_MASKBIT,
        _ => uint.MaxValue,
    };

    private bool IsHeld(int vector) => _isFunctionMasked || (_entries[(vector * 4) + 3] & PCI_MSIX_ENTRY_CTRL_MASKBIT) != 0;

    private void Message(int vector, out ulong address, out uint data)
    {
        address = _entries[vector * 4] | ((ulong)_entries[(vector * 4) + 1] << 32);
        data = _entries[(vector * 4) + 2];
    }

    // Under the lock: those who raise see what was written.
    private void Publish(int vector) => Publish(vector, IsEnabled);

    private void Publish(int vector, bool enabled)
    {
        Message(vector, out var address, out var data);
        _routes.Set(vector, address, data, enabled && !IsHeld(vector));
    }

    private void PublishAll(bool enabled = false)
    {
        for (var vector = 0; vector < Vectors; vector++)
            Publish(vector, enabled);
    }
}
