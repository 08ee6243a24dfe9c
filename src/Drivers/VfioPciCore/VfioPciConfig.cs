using System.Buffers.Binary;
using System.Numerics;
using Virtbus.Buses.Pci;
using Virtbus.Pci;
using Virtbus.Platform;
using static Virtbus.Pci.PciCapabilityId;
using static Virtbus.Pci.PciCommand;
using static Virtbus.Pci.PciExpress;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciMsi;
using static Virtbus.Pci.PciMsix;
using static Virtbus.Pci.PciPower;

namespace Virtbus.Drivers.VfioPci;

/// <summary>
/// Config space as the user of a function sees it. Each bit is the function's own or one of the image that is kept here (BARs, command,
/// MSI and MSI-X, power, everything that is hidden), and the user may write it or not. What a write means is done when its bytes are in.
/// </summary>
/// <remarks>One thread at a time, as the calls of an open device come.</remarks>
public sealed class VfioPciConfig
{
    private readonly PciDevice _device;
    private readonly VfioPciInterrupts _interrupts;
    private readonly Action _reset;
    private readonly VfioPciImage _image;
    private readonly List<(int Offset, byte Value)> _saved = [];
    private readonly byte _command;

    internal VfioPciConfig(PciDevice device, VfioPciInterrupts interrupts, Action reset)
    {
        _device = device;
        _interrupts = interrupts;
        _reset = reset;
        _image = new VfioPciImage(device, interrupts.HasLine);
        interrupts.Open(_image);
        _command = DecodeScope.ReadCommand(device);
        Span<byte> value = stackalloc byte[1];
        foreach (var offset in _image.Restored)
        {
            device.ReadConfig(offset, value);
            _saved.Add((offset, value[0]));
        }
    }

    /// <summary>Bytes of it.</summary>
    public int Size => _image.Size;

    /// <summary>The command register as the user wrote it.</summary>
    public ushort Command => _image.Read16(PCI_COMMAND);

    /// <summary>Whether the user has memory enabled, and the function in D0: else accesses to memory BARs are EIO (VP-08).</summary>
    public bool IsMemoryEnabled => (Command & PCI_COMMAND_MEMORY) != 0 && IsAwake;

    /// <summary>Whether the user has I/O ports enabled, and the function in D0.</summary>
    public bool IsIoEnabled => (Command & PCI_COMMAND_IO) != 0 && IsAwake;

    /// <summary>Whether the user has the function in D0.</summary>
    public bool IsAwake => _image.Power == 0 || (_image.Read16(_image.Power + PCI_PM_CTRL) & PCI_PM_CTRL_STATE_MASK) == 0;

    /// <summary>Reads config space for its user.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">EINVAL: the range leaves it.</param>
    public bool TryRead(ulong offset, Span<byte> destination, out Fault fault)
    {
        if (!Holds(offset, destination.Length, out fault))
            return false;
        Read((int)offset, destination);
        return true;
    }

    /// <summary>Writes config space for its user.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from; bits that the user may not write keep their value.</param>
    /// <param name="fault">As for <see cref="TryRead"/>.</param>
    public bool TryWrite(ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (!Holds(offset, source.Length, out fault))
            return false;
        Write((int)offset, source);
        return true;
    }

    /// <summary>Reads config space.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to; the range lies inside.</param>
    public void Read(int offset, Span<byte> destination)
    {
        _device.ReadConfig(offset, destination);
        if (_device.IsGone)
            return;
        for (var i = 0; i < destination.Length; i++)
        {
            var emulated = _image.Emulated[offset + i];
            destination[i] = (byte)((destination[i] & ~emulated) | (_image.Bytes[offset + i] & emulated));
        }
    }

    /// <summary>Writes config space; bits that the user may not write keep their value.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from; the range lies inside.</param>
    public void Write(int offset, ReadOnlySpan<byte> source)
    {
        if (_device.IsGone)
            return;
        var masks = (_image.UserMsiMask, _image.IsMsixMaskedByUser);
        var power = _image.Power == 0 ? 0 : _image.Read16(_image.Power + PCI_PM_CTRL);
        // By double words, as on the bus.
        for (var done = 0; done < source.Length;)
        {
            var length = Math.Min(4 - ((offset + done) & 3), source.Length - done);
            WriteBytes(offset + done, source.Slice(done, length));
            done += length;
        }
        if (Meets(offset, source.Length, PCI_COMMAND, 2))
            ApplyCommand();
        if (_image.Msi != 0 && Meets(offset, source.Length, _image.Msi + PCI_MSI_FLAGS, 2))
            ClipMessages();
        if (_image.Express != 0 && Meets(offset, source.Length, _image.Express + PCI_EXP_DEVCTL, 2))
            ClipRequests();
        if (masks != (_image.UserMsiMask, _image.IsMsixMaskedByUser))
            _interrupts.ApplyMasks();
        if (_image.Power != 0 && Meets(offset, source.Length, _image.Power + PCI_PM_CTRL, 2))
            ApplyPower(power);
        if (IsResetAsked())
            _reset();
    }

    /// <summary>Brings the function to what the user has written into the command register; after a reset too.</summary>
    internal void ApplyCommand()
    {
        var passed = PCI_COMMAND_MASTER | PCI_COMMAND_PARITY;
        // Of a virtual function the physical one decodes; the user's bit is kept and looked at here.
        if (_device.PhysicalFunction is null)
            passed |= PCI_COMMAND_IO | PCI_COMMAND_MEMORY;
        var hardware = DecodeScope.ReadCommand(_device);
        var wanted = (byte)((hardware & ~passed) | (Command & passed));
        if (wanted != hardware)
            DecodeScope.WriteCommand(_device, wanted);
        _interrupts.SetLineDisabled((Command & PCI_COMMAND_INTX_DISABLE) != 0);
    }

    /// <summary>
    /// The function was reset: its user's masks are gone. Who resets a machine puts its own registers back without a word about those of the
    /// device, and would wait for ever for a message that was masked before.
    /// </summary>
    internal void OpenMasks()
    {
        if (_image.UserMsiMask == 0 && !_image.IsMsixMaskedByUser && !_interrupts.HasTable)
            return;
        if (_image.MsiMask != 0)
            _image.Write32(_image.MsiMask, 0);
        if (_image.Msix != 0)
            _image.Write16(_image.Msix + PCI_MSIX_FLAGS, (ushort)(_image.Read16(_image.Msix + PCI_MSIX_FLAGS) & ~PCI_MSIX_FLAGS_MASKALL));
        _interrupts.OpenMasks();
    }

    /// <summary>The function was reset past its user: what its own register says of it counts, so that a driver that looks writes again.</summary>
    internal void TakeCommand()
    {
        const int own = PCI_COMMAND_MASTER | PCI_COMMAND_PARITY;
        _image.Write16(PCI_COMMAND, (ushort)((Command & ~own) | (DecodeScope.ReadCommand(_device) & own)));
    }

    /// <summary>Writes back what the user may have changed in the function itself.</summary>
    internal void Restore()
    {
        DecodeScope.WriteCommand(_device, _command);
        foreach (var (offset, value) in _saved)
            _device.WriteConfig(offset, [value]);
    }

    private bool Holds(ulong offset, int length, out Fault fault)
    {
        var fits = offset <= (ulong)Size && (ulong)length <= (ulong)Size - offset;
        fault = fits ? Fault.None : new Fault(Errno.EINVAL, "the access leaves config space");
        return fits;
    }

    private void WriteBytes(int offset, ReadOnlySpan<byte> source)
    {
        int first = -1, last = -1;
        for (var i = 0; i < source.Length; i++)
        {
            var at = offset + i;
            var kept = (byte)(_image.Writable[at] & _image.Emulated[at]);
            _image.Bytes[at] = (byte)((_image.Bytes[at] & ~kept) | (source[i] & kept));
            if ((_image.Writable[at] & ~_image.Emulated[at]) != 0)
            {
                first = first < 0 ? i : first;
                last = i;
            }
        }
        if (first < 0)
            return;
        // What the user may not write goes back as it is; bits that a 1 clears are all the user's to write, so none is cleared by that.
        Span<byte> bytes = stackalloc byte[last - first + 1];
        // A read may do something too, so there is none where nothing is kept.
        if (!IsAllTheUsers(offset + first, bytes.Length))
            _device.ReadConfig(offset + first, bytes);
        for (var i = 0; i < bytes.Length; i++)
        {
            var at = offset + first + i;
            var passed = _image.Writable[at] & ~_image.Emulated[at];
            bytes[i] = (byte)((bytes[i] & ~passed) | (source[first + i] & passed));
        }
        _device.WriteConfig(offset + first, bytes);
    }

    private bool IsAllTheUsers(int offset, int length)
    {
        for (var at = offset; at < offset + length; at++)
        {
            if ((_image.Writable[at] & ~_image.Emulated[at]) != 0xFF)
                return false;
        }
        return true;
    }

    // No more messages than the function has, or than SET_IRQS has set up.
    private void ClipMessages()
    {
        var flags = _image.Read16(_image.Msi + PCI_MSI_FLAGS);
        var most = (flags & PCI_MSI_FLAGS_QMASK) >> 1;
        if (_interrupts.Kind == PciInterruptKinds.Msi)
            most = Math.Min(most, BitOperations.Log2(BitOperations.RoundUpToPowerOf2((uint)_interrupts.Count)));
        var given = Math.Min((flags & PCI_MSI_FLAGS_QSIZE) >> PCI_MSI_FLAGS_QSIZE_SHIFT, most);
        _image.Write16(_image.Msi + PCI_MSI_FLAGS, (ushort)((flags & ~PCI_MSI_FLAGS_QSIZE) | (given << PCI_MSI_FLAGS_QSIZE_SHIFT)));
    }

    // No larger payload than the function has, and no larger read than there is (4096 bytes).
    private void ClipRequests()
    {
        const int largest = 5 << 12;
        var control = _image.Read16(_image.Express + PCI_EXP_DEVCTL);
        var payload = Math.Min(control & PCI_EXP_DEVCTL_PAYLOAD, (int)(_image.Read32(_image.Express + PCI_EXP_DEVCAP) & PCI_EXP_DEVCAP_PAYLOAD) << 5);
        var read = Math.Min(control & PCI_EXP_DEVCTL_READRQ, largest);
        _image.Write16(_image.Express + PCI_EXP_DEVCTL, (ushort)((control & ~(PCI_EXP_DEVCTL_PAYLOAD | PCI_EXP_DEVCTL_READRQ)) | payload | read));
    }

    private void ApplyPower(int before)
    {
        var control = _image.Power + PCI_PM_CTRL;
        var now = _image.Read16(control);
        var state = now & PCI_PM_CTRL_STATE_MASK;
        if (state is 1 or 2)
        {
            // States that the function does not have: the write is lost, as on hardware.
            _image.Write16(control, (ushort)((now & ~PCI_PM_CTRL_STATE_MASK) | (before & PCI_PM_CTRL_STATE_MASK)));
        }
        else if (state == 0 && (before & PCI_PM_CTRL_STATE_MASK) == PCI_PM_CTRL_STATE_MASK && (now & PCI_PM_CTRL_NO_SOFT_RESET) == 0)
        {
            // The way out of D3hot is a reset for such a function. It never really was there: D3 would take its registers from the tool box too.
            _reset();
        }
    }

    // Bits that start a reset read as 0 again at once.
    private bool IsResetAsked()
    {
        var asked = false;
        if (_image.Express != 0)
        {
            var control = _image.Read16(_image.Express + PCI_EXP_DEVCTL);
            asked = (control & PCI_EXP_DEVCTL_BCR_FLR) != 0;
            _image.Write16(_image.Express + PCI_EXP_DEVCTL, (ushort)(control & ~PCI_EXP_DEVCTL_BCR_FLR));
        }
        if (_image.AdvancedFeatures != 0)
        {
            asked |= (_image.Bytes[_image.AdvancedFeatures + 4] & 1) != 0;
            _image.Bytes[_image.AdvancedFeatures + 4] = 0;
        }
        return asked;
    }

    private static bool Meets(int offset, int length, int register, int size) => VfioPciOverlap.TryFind((ulong)offset, length, (ulong)register, size, out _);
}
