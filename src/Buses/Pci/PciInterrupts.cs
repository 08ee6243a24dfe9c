using System.Numerics;
using Virtbus.Platform;
using static Virtbus.Pci.PciCapabilityId;
using static Virtbus.Pci.PciCommand;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciMsi;
using static Virtbus.Pci.PciMsix;

namespace Virtbus.Buses.Pci;

/// <summary>
/// The interrupts of one device: the level of its line, and its vectors. A message is looked up among the vectors of the function that sent
/// it, so no function can raise another one's interrupt.
/// </summary>
internal sealed class PciInterrupts(PciDevice device)
{
    private const ulong MessageBase = 0xFEE0_0000;
    private static readonly PciVector[] None = [];

    private readonly Lock _lock = new();
    private PciVector[] _vectors = None;
    // What messages are routed to; empty while the vector is the line.
    private PciVector[] _messages = None;
    private PciInterruptKinds _kind;
    private int _capability;
    // Where the masks are: the MSI-X table, or the register of the MSI capability (0 when it has none).
    private PciRegion? _table;
    private ulong _tableOffset;
    private int _maskOffset;
    private bool _isBusy;
    private uint _msiMask;
    private volatile bool _isLineAsserted;

    public PciDevice Device { get; } = device;

    public IReadOnlyList<PciVector> Vectors => Volatile.Read(ref _vectors);

    /// <summary>Where the function's messages go: the interrupt controllers' range, with the function's routing id in it.</summary>
    public ulong MessageAddress => MessageBase | ((ulong)Device.Address.RoutingId << 4);

    /// <summary>Whether the line's level reaches the handler.</summary>
    public bool IsLineDelivered => _isLineAsserted && (Device.Hardware.Command & PCI_COMMAND_INTX_DISABLE) == 0;

    public void Message(ulong address, uint data)
    {
        // A message is a write to memory: only a bus master makes it.
        if (!Device.Hardware.IsMaster)
            return;
        var messages = Volatile.Read(ref _messages);
        if (address == MessageAddress && data < (uint)messages.Length)
            messages[data].Raise();
        else
            PciLog.StrayMessage(Device.PciBus.Log, Device.Name, address, data);
    }

    public PciVector? Find(ulong address, uint data)
    {
        var messages = Volatile.Read(ref _messages);
        return address == MessageAddress && data < (uint)messages.Length ? messages[data] : null;
    }

    public void SetLine(bool asserted)
    {
        _isLineAsserted = asserted;
        if (asserted)
            LineChanged();
    }

    /// <summary>The line or the command register changed.</summary>
    public void LineChanged()
    {
        var vectors = Volatile.Read(ref _vectors);
        if (vectors.Length > 0 && vectors[0].Kind == PciInterruptKinds.INTx)
            vectors[0].Dispatch();
    }

    public IReadOnlyList<PciVector> Allocate(int min, int max, PciInterruptKinds kinds)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(min, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(max, min);
        lock (_lock)
        {
            if (_isBusy || _vectors.Length > 0)
                throw new VirtbusException(Errno.EBUSY, $"Device {Device.Name} has {_vectors.Length} interrupt vectors allocated. Free them first.");
            _isBusy = true;
        }
        try
        {
            if (!TryAllocateMsiX(min, max, kinds) && !TryAllocateMsi(min, max, kinds) && !TryAllocateLine(min, kinds))
            {
                throw new VirtbusException(
                    Errno.ENOSPC, $"Device {Device.Name} has not {min} interrupt vectors of the kinds {kinds}. Ask for fewer, or allow another kind.");
            }
        }
        finally
        {
            _isBusy = false;
        }
        return _vectors;
    }

    public void Free()
    {
        PciVector[] vectors;
        PciInterruptKinds kind;
        lock (_lock)
        {
            vectors = _vectors;
            kind = _kind;
            if (vectors.Length == 0 || _isBusy)
                return;
            _isBusy = true;
        }
        foreach (var vector in vectors)
            vector.Revoke();
        Volatile.Write(ref _messages, None);
        Volatile.Write(ref _vectors, None);
        switch (kind)
        {
            case PciInterruptKinds.MsiX:
                Device.WriteConfig16(
                    _capability + PCI_MSIX_FLAGS,
                    (ushort)(Device.ReadConfig16(_capability + PCI_MSIX_FLAGS) & ~(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)));
                break;
            case PciInterruptKinds.Msi:
                Device.WriteConfig16(
                    _capability + PCI_MSI_FLAGS, (ushort)(Device.ReadConfig16(_capability + PCI_MSI_FLAGS) & ~(PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE)));
                break;
            default:
                break;
        }
        // The line is as it was before: open.
        Device.SetInterruptDisable(false);
        foreach (var vector in vectors)
            Device.PciBus.FreeIrq(vector.Irq);
        _kind = PciInterruptKinds.None;
        _isBusy = false;
    }

    /// <summary>Programs capability and table again, as they were before a reset.</summary>
    public void Restore()
    {
        switch (_kind)
        {
            case PciInterruptKinds.MsiX:
                ProgramMsiX(_messages);
                break;
            case PciInterruptKinds.Msi:
                ProgramMsi(_messages.Length);
                break;
            default:
                return;
        }
        foreach (var vector in _messages)
            WriteMask(vector, vector.IsBlocked);
    }

    public void WriteMask(PciVector vector, bool masked)
    {
        switch (vector.Kind)
        {
            case PciInterruptKinds.MsiX:
                _table!.Write32(_tableOffset + (ulong)(vector.Index * PCI_MSIX_ENTRY_SIZE) + PCI_MSIX_ENTRY_VECTOR_CTRL, masked ? PCI_MSIX_ENTRY_CTRL_MASKBIT : 0);
                break;
            case PciInterruptKinds.Msi:
                WriteMsiMask(vector.Index, masked);
                break;
            default:
                Device.SetInterruptDisable(masked);
                break;
        }
    }

    private bool TryAllocateMsiX(int min, int max, PciInterruptKinds kinds)
    {
        if (!kinds.HasFlag(PciInterruptKinds.MsiX) || PciMsixPlace.Find(Device) is not { } place)
            return false;
        var size = place.Vectors;
        if (size < min)
            return false;
        _capability = place.Capability;
        _table = Device.GetRegion(place.Bar);
        _tableOffset = place.Offset;
        if (!_table.IsEnabled)
            throw new VirtbusException(Errno.EIO, $"Device {Device.Name} does not decode BAR {_table.Index}, where its MSI-X table is. Enable the device first.");
        var vectors = Make(PciInterruptKinds.MsiX, Math.Min(size, max));
        ProgramMsiX(vectors);
        Device.SetInterruptDisable(true);
        Publish(PciInterruptKinds.MsiX, vectors, vectors);
        return true;
    }

    private bool TryAllocateMsi(int min, int max, PciInterruptKinds kinds)
    {
        if (!kinds.HasFlag(PciInterruptKinds.Msi) || Device.FindCapability(PCI_CAP_ID_MSI) is not (> 0 and var capability))
            return false;
        var size = 1 << Math.Min((Device.ReadConfig16(capability + PCI_MSI_FLAGS) & PCI_MSI_FLAGS_QMASK) >> 1, 5);
        if (size < min)
            return false;
        _capability = capability;
        var control = Device.ReadConfig16(capability + PCI_MSI_FLAGS);
        _maskOffset = (control & PCI_MSI_FLAGS_MASKBIT) == 0 ? 0 : capability + ((control & PCI_MSI_FLAGS_64BIT) != 0 ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
        // Vectors come in powers of two; one that was not asked for is not handed out.
        var vectors = Make(PciInterruptKinds.Msi, Math.Min(size, max));
        ProgramMsi(vectors.Length);
        foreach (var vector in vectors)
            WriteMsiMask(vector.Index, masked: true);
        Device.SetInterruptDisable(true);
        Publish(PciInterruptKinds.Msi, vectors, vectors);
        return true;
    }

    private bool TryAllocateLine(int min, PciInterruptKinds kinds)
    {
        if (!kinds.HasFlag(PciInterruptKinds.INTx) || min > 1 || Device.ReadConfig8(PCI_INTERRUPT_PIN) is not (> 0 and <= 4))
            return false;
        Device.SetInterruptDisable(false);
        Publish(PciInterruptKinds.INTx, Make(PciInterruptKinds.INTx, 1), None);
        return true;
    }

    private void Publish(PciInterruptKinds kind, PciVector[] vectors, PciVector[] messages)
    {
        _kind = kind;
        Volatile.Write(ref _vectors, vectors);
        Volatile.Write(ref _messages, messages);
    }

    private PciVector[] Make(PciInterruptKinds kind, int count)
    {
        var vectors = new PciVector[count];
        for (var i = 0; i < count; i++)
            vectors[i] = new PciVector(this, kind, i, Device.PciBus.AllocateIrq());
        return vectors;
    }

    // Masked as a whole while the table is filled; entries stay masked until their vector has a handler.
    private void ProgramMsiX(PciVector[] vectors)
    {
        var control = Device.ReadConfig16(_capability + PCI_MSIX_FLAGS) | PCI_MSIX_FLAGS_ENABLE;
        Device.WriteConfig16(_capability + PCI_MSIX_FLAGS, (ushort)(control | PCI_MSIX_FLAGS_MASKALL));
        var size = (control & PCI_MSIX_FLAGS_QSIZE) + 1;
        for (var i = 0; i < size; i++)
        {
            var at = _tableOffset + (ulong)(i * PCI_MSIX_ENTRY_SIZE);
            _table!.Write32(at + PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
            if (i >= vectors.Length)
                continue;
            _table!.Write32(at + PCI_MSIX_ENTRY_LOWER_ADDR, (uint)MessageAddress);
            _table!.Write32(at + PCI_MSIX_ENTRY_UPPER_ADDR, (uint)(MessageAddress >> 32));
            _table!.Write32(at + PCI_MSIX_ENTRY_DATA, (uint)i);
        }
        Device.WriteConfig16(_capability + PCI_MSIX_FLAGS, (ushort)(control & ~PCI_MSIX_FLAGS_MASKALL));
    }

    private void ProgramMsi(int count)
    {
        var control = Device.ReadConfig16(_capability + PCI_MSI_FLAGS) & ~(PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
        var isWide = (control & PCI_MSI_FLAGS_64BIT) != 0;
        Device.WriteConfig32(_capability + PCI_MSI_ADDRESS_LO, (uint)MessageAddress);
        if (isWide)
            Device.WriteConfig32(_capability + PCI_MSI_ADDRESS_HI, (uint)(MessageAddress >> 32));
        // The function puts the vector's number into the lowest bits.
        Device.WriteConfig16(_capability + (isWide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 0);
        var log2 = count == 1 ? 0 : BitOperations.Log2((uint)(count - 1)) + 1;
        Device.WriteConfig16(_capability + PCI_MSI_FLAGS, (ushort)(control | (log2 << PCI_MSI_FLAGS_QSIZE_SHIFT) | PCI_MSI_FLAGS_ENABLE));
    }

    private void WriteMsiMask(int index, bool masked)
    {
        if (_maskOffset == 0)
            return;
        if (masked)
            Interlocked.Or(ref _msiMask, 1u << index);
        else
            Interlocked.And(ref _msiMask, ~(1u << index));
        // One register for all vectors: who wrote an old state writes again.
        uint written;
        do
        {
            written = Volatile.Read(ref _msiMask);
            Device.WriteConfig32(_maskOffset, written);
        }
        while (written != Volatile.Read(ref _msiMask));
    }
}
