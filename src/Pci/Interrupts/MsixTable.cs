using System.Buffers.Binary;
using System.Numerics;
using static Virtbus.Pci.PciMsix;

namespace Virtbus.Pci;

/// <summary>
/// The MSI-X table with its pending bits: messages that software wrote, a mask for each, and a pending bit for what came while masked. Usable
/// without a config space. Safe from any thread; raising a vector allocates nothing.
/// </summary>
public sealed class MsixTable
{
    private readonly Lock _lock = new();
    private readonly uint[] _entries;
    private readonly ulong[] _pending;
    private readonly Action<ulong, uint> _send;
    private bool _isEnabled;
    private bool _isFunctionMasked;

    /// <summary>Makes a table as after a reset: every vector masked, MSI-X disabled.</summary>
    /// <param name="vectors">1 to 2048.</param>
    /// <param name="send">Sends a message: address and data. Called on the thread that raised or unmasked a vector, under no lock.</param>
    public MsixTable(int vectors, Action<ulong, uint> send)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(vectors, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(vectors, PCI_MSIX_MAX_VECTORS);
        _entries = new uint[vectors * 4];
        _pending = new ulong[(vectors + 63) / 64];
        _send = send;
        Reset();
    }

    /// <summary>Number of vectors.</summary>
    public int Vectors => _entries.Length / 4;

    /// <summary>Bytes of the table.</summary>
    public int TableSize => _entries.Length * 4;

    /// <summary>Bytes of the pending bits.</summary>
    public int PendingSize => _pending.Length * 8;

    /// <summary>Whether MSI-X is enabled.</summary>
    public bool IsEnabled => Volatile.Read(ref _isEnabled);

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
        }
        Flush();
    }

    /// <summary>Reads the pending bits. What lies outside reads as all ones. Writes to them have no effect, so there is none.</summary>
    /// <param name="offset">First byte in them.</param>
    /// <param name="destination">Where to; any length.</param>
    public void ReadPending(ulong offset, Span<byte> destination)
    {
        lock (_lock)
        {
            for (var i = 0; i < destination.Length; i++)
            {
                var at = offset + (ulong)i;
                destination[i] = at < (ulong)PendingSize ? (byte)(_pending[at / 8] >> (8 * (int)(at & 7))) : (byte)0xFF;
            }
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
        lock (_lock)
            return ((_pending[vector / 64] >> (vector & 63)) & 1) != 0;
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
        ulong address;
        uint data;
        lock (_lock)
        {
            if (!_isEnabled)
                return false;
            if (IsHeld(vector))
            {
                _pending[vector / 64] |= 1UL << (vector & 63);
                return true;
            }
            Message(vector, out address, out data);
        }
        _send(address, data);
        return true;
    }

    /// <summary>Sets everything back: MSI-X disabled, every vector masked and not pending.</summary>
    public void Reset()
    {
        lock (_lock)
        {
            _isEnabled = false;
            _isFunctionMasked = false;
            Array.Clear(_pending);
            Array.Clear(_entries);
            for (var i = 3; i < _entries.Length; i += 4)
                _entries[i] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
        }
    }

    /// <summary>The first half of <see cref="SetControl"/>: what becomes due stays pending until <see cref="Flush"/>.</summary>
    internal void Load(bool enabled, bool functionMasked)
    {
        lock (_lock)
        {
            _isEnabled = enabled;
            _isFunctionMasked = functionMasked;
            if (!enabled)
                Array.Clear(_pending);
        }
    }

    /// <summary>Sends what is pending and not masked.</summary>
    internal void Flush()
    {
        while (TryTake(out var address, out var data))
            _send(address, data);
    }

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

    private bool TryTake(out ulong address, out uint data)
    {
        (address, data) = (0, 0);
        lock (_lock)
        {
            if (!_isEnabled || _isFunctionMasked)
                return false;
            for (var word = 0; word < _pending.Length; word++)
            {
                for (var left = _pending[word]; left != 0; left &= left - 1)
                {
                    var vector = (word * 64) + BitOperations.TrailingZeroCount(left);
                    if (IsHeld(vector))
                        continue;
                    _pending[word] &= ~(1UL << (vector & 63));
                    Message(vector, out address, out data);
                    return true;
                }
            }
        }
        return false;
    }
}
