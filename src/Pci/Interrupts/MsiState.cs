using System.Numerics;

namespace Virtbus.Pci;

/// <summary>
/// What lies behind an MSI capability: one message for up to 32 vectors, masks, and pending bits for what came while masked. Usable without a
/// config space. Safe from any thread; raising a vector allocates nothing.
/// </summary>
public sealed class MsiState
{
    private readonly Lock _lock = new();
    private readonly bool _hasMasks;
    private readonly Action<ulong, uint> _send;
    private readonly Action<uint>? _pendingChanged;
    private bool _isEnabled;
    private int _granted = 1;
    private ulong _address;
    private uint _data;
    private uint _mask;
    private uint _pending;

    /// <summary>Makes one as after a reset: disabled.</summary>
    /// <param name="vectors">Vectors that the function has: 1, 2, 4, 8, 16 or 32.</param>
    /// <param name="hasMasks">Whether vectors can be masked one by one.</param>
    /// <param name="send">Sends a message: address and data. Called on the thread that raised or unmasked a vector, under no lock.</param>
    /// <param name="pendingChanged">Told the pending bits whenever they change, in order, under a lock: it must not call back.</param>
    public MsiState(int vectors, bool hasMasks, Action<ulong, uint> send, Action<uint>? pendingChanged = null)
    {
        if (!int.IsPow2(vectors) || vectors is < 1 or > 32)
            throw new ArgumentOutOfRangeException(nameof(vectors), vectors, "MSI has 1, 2, 4, 8, 16 or 32 vectors.");
        Vectors = vectors;
        _hasMasks = hasMasks;
        _send = send;
        _pendingChanged = pendingChanged;
    }

    /// <summary>Vectors that the function has.</summary>
    public int Vectors { get; }

    /// <summary>Vectors that software gave the function, at most <see cref="Vectors"/>. More are folded into these.</summary>
    public int Granted => Volatile.Read(ref _granted);

    /// <summary>Whether MSI is enabled.</summary>
    public bool IsEnabled => Volatile.Read(ref _isEnabled);

    /// <summary>The pending bits.</summary>
    public uint Pending
    {
        get
        {
            lock (_lock)
                return _pending;
        }
    }

    /// <summary>Sets what the registers of the capability say; what becomes unmasked and is pending is sent.</summary>
    /// <param name="control">Message control (<see cref="PciMsi.PCI_MSI_FLAGS"/>).</param>
    /// <param name="address">Message address.</param>
    /// <param name="data">Message data.</param>
    /// <param name="mask">Mask bits; without effect when there are none.</param>
    public void SetRegisters(ushort control, ulong address, uint data, uint mask)
    {
        Load(control, address, data, mask);
        Flush();
    }

    /// <summary>Raises a vector: its message is sent, or its pending bit is set while it is masked.</summary>
    /// <param name="vector">From 0; numbers that software gave no message for share those that it gave.</param>
    /// <returns>False when MSI is disabled: nothing happened.</returns>
    public bool Raise(int vector)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)vector, (uint)Vectors, nameof(vector));
        ulong address;
        uint data;
        lock (_lock)
        {
            if (!_isEnabled)
                return false;
            vector &= _granted - 1;
            if (((_mask >> vector) & 1) != 0)
            {
                SetPending(_pending | (1u << vector));
                return true;
            }
            (address, data) = Message(vector);
        }
        _send(address, data);
        return true;
    }

    /// <summary>Sets everything back: disabled, nothing masked or pending.</summary>
    public void Reset() => Load(0, 0, 0, 0);

    /// <summary>The first half of <see cref="SetRegisters"/>: what becomes due stays pending until <see cref="Flush"/>.</summary>
    internal void Load(ushort control, ulong address, uint data, uint mask)
    {
        lock (_lock)
        {
            _isEnabled = (control & PciMsi.PCI_MSI_FLAGS_ENABLE) != 0;
            _granted = Math.Min(Vectors, 1 << ((control & PciMsi.PCI_MSI_FLAGS_QSIZE) >> PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT));
            _address = address;
            _data = data;
            _mask = _hasMasks ? mask : 0;
            if (!_isEnabled)
                SetPending(0);
        }
    }

    /// <summary>Sends what is pending and not masked.</summary>
    internal void Flush()
    {
        while (TryTake(out var address, out var data))
            _send(address, data);
    }

    private bool TryTake(out ulong address, out uint data)
    {
        (address, data) = (0, 0);
        lock (_lock)
        {
            var due = _pending & ~_mask;
            if (!_isEnabled || due == 0)
                return false;
            var vector = BitOperations.TrailingZeroCount(due);
            SetPending(_pending & ~(1u << vector));
            (address, data) = Message(vector & (_granted - 1));
            return true;
        }
    }

    // The function puts the vector into the low bits of the data, as many bits as software gave it.
    private (ulong Address, uint Data) Message(int vector) => (_address, (_data & ~(uint)(_granted - 1)) | (uint)vector);

    private void SetPending(uint pending)
    {
        if (pending == _pending)
            return;
        _pending = pending;
        _pendingChanged?.Invoke(pending);
    }
}
