namespace Virtbus.Pci;

/// <summary>
/// What lies behind an MSI capability: one message for up to 32 vectors, masks, and pending bits for what came while masked. Usable without a
/// config space. Safe from any thread; raising a vector takes no lock and allocates nothing.
/// </summary>
public sealed class MsiState
{
    private readonly Lock _lock = new();
    private readonly Lock _showing = new();
    private readonly bool _hasMasks;
    private readonly MessageRoutes _routes;
    private readonly Action<uint>? _pendingChanged;
    private int _granted = 1;
    private uint _shown;

    /// <summary>Makes one as after a reset: disabled.</summary>
    /// <param name="vectors">Vectors that the function has: 1, 2, 4, 8, 16 or 32.</param>
    /// <param name="hasMasks">Whether vectors can be masked one by one.</param>
    /// <param name="send">Sends a message: address and data. Called on the thread that raised or unmasked a vector, under no lock.</param>
    /// <param name="pendingChanged">Told the pending bits whenever they change, in order, under a lock: it must not call back.</param>
    /// <param name="find">Looks up what a message reaches, so that it is signalled straight (<see cref="IPciPort.FindTarget"/>); null for never.</param>
    public MsiState(
        int vectors, bool hasMasks, Action<ulong, uint> send, Action<uint>? pendingChanged = null, Func<ulong, uint, IPciMessageTarget?>? find = null)
    {
        if (!int.IsPow2(vectors) || vectors is < 1 or > 32)
            throw new ArgumentOutOfRangeException(nameof(vectors), vectors, "MSI has 1, 2, 4, 8, 16 or 32 vectors.");
        Vectors = vectors;
        _hasMasks = hasMasks;
        _pendingChanged = pendingChanged;
        _routes = new MessageRoutes(vectors, send, find, pendingChanged is null ? null : ShowPending);
    }

    /// <summary>Vectors that the function has.</summary>
    public int Vectors { get; }

    /// <summary>Vectors that software gave the function, at most <see cref="Vectors"/>. More are folded into these.</summary>
    public int Granted => Volatile.Read(ref _granted);

    /// <summary>Whether MSI is enabled.</summary>
    public bool IsEnabled => _routes.IsEnabled;

    /// <summary>The pending bits.</summary>
    public uint Pending => (uint)_routes.Pending(0);

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
        return _routes.Raise(vector & (Granted - 1));
    }

    /// <summary>Sets everything back: disabled, nothing masked or pending.</summary>
    public void Reset() => Load(0, 0, 0, 0);

    /// <summary>
    /// The first half of <see cref="SetRegisters"/>, for whoever keeps the registers under a lock of its own: what becomes due stays pending until
    /// <see cref="Flush"/>, to be called without that lock.
    /// </summary>
    /// <param name="control">As for <see cref="SetRegisters"/>.</param>
    /// <param name="address">As for <see cref="SetRegisters"/>.</param>
    /// <param name="data">As for <see cref="SetRegisters"/>.</param>
    /// <param name="mask">As for <see cref="SetRegisters"/>.</param>
    public void Load(ushort control, ulong address, uint data, uint mask)
    {
        lock (_lock)
        {
            var enabled = (control & PciMsi.PCI_MSI_FLAGS_ENABLE) != 0;
            var granted = Math.Min(Vectors, 1 << ((control & PciMsi.PCI_MSI_FLAGS_QSIZE) >> PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT));
            Volatile.Write(ref _granted, granted);
            if (enabled)
                _routes.Enable(true);
            for (var vector = 0; vector < Vectors; vector++)
            {
                // The function puts the vector into the low bits of the data, as many bits as software gave it.
                var message = (data & ~(uint)(granted - 1)) | (uint)(vector & (granted - 1));
                _routes.Set(vector, address, message, enabled && (!_hasMasks || (mask >> vector & 1) == 0));
            }
            _routes.Enable(enabled);
        }
        if (_pendingChanged is not null)
            ShowPending();
    }

    /// <summary>Sets whether the function may send; when it may not, no target is signalled straight when this returns.</summary>
    internal void Link(bool linked)
    {
        lock (_lock)
            _routes.Link(linked);
    }

    /// <summary>Sends what is pending and not masked.</summary>
    public void Flush() => _routes.Flush();

    // Read under the lock, so that the last one that is shown is the last one that there was.
    private void ShowPending()
    {
        lock (_showing)
        {
            var pending = Pending;
            if (pending == _shown)
                return;
            _shown = pending;
            _pendingChanged!(pending);
        }
    }
}
