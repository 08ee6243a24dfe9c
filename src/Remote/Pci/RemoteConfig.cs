using System.Buffers.Binary;
using System.Numerics;
using Virtbus.Pci;

namespace Virtbus.Remote.Pci;

/// <summary>
/// Which bytes of config space are kept here of a function that is elsewhere: base address registers, as a server need not size them, and the
/// interrupt capabilities, as interrupts are set up by calls of their own. The rest is the other end's. Used under the function's lock.
/// </summary>
internal sealed class RemoteConfig
{
    private const int MaxCapabilities = 48;
    private const int MsiBytes = 24;

    private readonly byte[] _first;
    private readonly byte[] _shadow;
    private readonly byte[] _writable;
    private readonly bool[] _isKept;
    private readonly bool[] _isToldToo;

    /// <summary>Looks at a config space.</summary>
    /// <param name="bytes">All of it, as it was read from the other end.</param>
    /// <param name="barSizes">Bytes of the regions 0 to 6.</param>
    internal RemoteConfig(byte[] bytes, ulong[] barSizes)
    {
        _first = bytes;
        _shadow = [.. bytes];
        _writable = new byte[bytes.Length];
        _isKept = new bool[bytes.Length];
        _isToldToo = new bool[bytes.Length];
        KeepBars(barSizes);
        FindCapabilities();
    }

    internal PciBar[] Bars { get; } = new PciBar[PciBar.Count];

    /// <summary>Offset of the MSI capability; 0 without one.</summary>
    internal int Msi { get; private set; }

    /// <summary>Offset of the MSI-X capability; 0 without one.</summary>
    internal int Msix { get; private set; }

    /// <summary>Offset of the PCI Express capability; 0 without one.</summary>
    internal int Express { get; private set; }

    internal int MsixVectors => (Word(Msix + PciMsix.PCI_MSIX_FLAGS) & PciMsix.PCI_MSIX_FLAGS_QSIZE) + 1;

    internal bool HasPin => _first[PciHeader.PCI_INTERRUPT_PIN] != 0;

    internal bool IsMsi64 => (Word(Msi + PciMsi.PCI_MSI_FLAGS) & PciMsi.PCI_MSI_FLAGS_64BIT) != 0;

    internal bool HasMsiMasks => (Word(Msi + PciMsi.PCI_MSI_FLAGS) & PciMsi.PCI_MSI_FLAGS_MASKBIT) != 0;

    /// <summary>Vectors that the MSI capability has.</summary>
    internal int MsiVectors => 1 << Math.Min(5, (Word(Msi + PciMsi.PCI_MSI_FLAGS) & PciMsi.PCI_MSI_FLAGS_QMASK) >> 1);

    internal ushort Word(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(_shadow.AsSpan(offset));

    internal uint Long(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(_shadow.AsSpan(offset));

    /// <summary>Whether any byte of a range is kept here.</summary>
    internal bool Touches(int offset, int length) => _isKept.AsSpan(offset, length).Contains(true);

    /// <summary>Whether all bytes of a range are kept here, so that the other end need not be asked.</summary>
    internal bool Covers(int offset, int length) => !_isKept.AsSpan(offset, length).Contains(false);

    /// <summary>Puts the bytes that are kept here over what the other end answered.</summary>
    internal void Overlay(int offset, Span<byte> bytes)
    {
        for (var i = 0; i < bytes.Length; i++)
        {
            if (_isKept[offset + i])
                bytes[i] = _shadow[offset + i];
        }
    }

    /// <summary>Takes the writable bits of what is kept here.</summary>
    internal void Store(int offset, ReadOnlySpan<byte> source)
    {
        for (var i = 0; i < source.Length; i++)
        {
            var at = offset + i;
            _shadow[at] = (byte)((_shadow[at] & ~_writable[at]) | (source[i] & _writable[at]));
        }

        if (Msi != 0)
            ClipMsi();
    }

    // More vectors than there are cannot be given.
    private void ClipMsi()
    {
        var flags = Word(Msi + PciMsi.PCI_MSI_FLAGS);
        var given = Math.Min((flags & PciMsi.PCI_MSI_FLAGS_QSIZE) >> PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT, BitOperations.Log2((uint)MsiVectors));
        BinaryPrimitives.WriteUInt16LittleEndian(
            _shadow.AsSpan(Msi + PciMsi.PCI_MSI_FLAGS), (ushort)((flags & ~PciMsi.PCI_MSI_FLAGS_QSIZE) | (given << PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT)));
    }

    /// <summary>The next run of bytes that the other end is told of; false when there is none.</summary>
    internal bool TryGetTold(int offset, int length, ref int at, out int count)
    {
        while (at < length && _isKept[offset + at] && !_isToldToo[offset + at])
            at++;
        count = 0;
        while (at + count < length && (!_isKept[offset + at + count] || _isToldToo[offset + at + count]))
            count++;
        return count > 0;
    }

    /// <summary>Sets the pending bits of the MSI capability.</summary>
    internal void SetMsiPending(uint pending) =>
        BinaryPrimitives.WriteUInt32LittleEndian(_shadow.AsSpan(Msi + (IsMsi64 ? PciMsi.PCI_MSI_PENDING_64 : PciMsi.PCI_MSI_PENDING_32)), pending);

    /// <summary>Sets what is kept here back to what it was after power-on: no addresses, interrupts off.</summary>
    internal void Reset()
    {
        for (var i = 0; i < _shadow.Length; i++)
            _shadow[i] = (byte)(_first[i] & ~_writable[i]);
    }

    private void KeepBars(ulong[] sizes)
    {
        for (var bar = 0; bar < PciBar.Rom; bar++)
        {
            var at = PciHeader.PCI_BASE_ADDRESS_0 + (4 * bar);
            var register = Long(at);
            var size = sizes[bar] == 0 ? 0 : BitOperations.RoundUpToPowerOf2(sizes[bar]);
            if (size == 0)
            {
                Keep(at, 4, 0);
                BinaryPrimitives.WriteUInt32LittleEndian(_first.AsSpan(at), 0);
                continue;
            }

            if ((register & PciHeader.PCI_BASE_ADDRESS_SPACE_IO) != 0)
            {
                Bars[bar] = new PciBar(PciBarKind.Io, size);
                Keep(at, 4, (uint)~(size - 1) & ~3u);
                continue;
            }

            var wide = (register & PciHeader.PCI_BASE_ADDRESS_MEM_TYPE_64) != 0 && bar < 5;
            Bars[bar] = new PciBar(wide ? PciBarKind.Memory64 : PciBarKind.Memory32, size, (register & PciHeader.PCI_BASE_ADDRESS_MEM_PREFETCH) != 0);
            Keep(at, 4, (uint)~(size - 1) & ~0xfu);
            if (!wide)
                continue;
            Keep(at + 4, 4, (uint)(~(size - 1) >> 32));
            bar++;
        }

        var rom = sizes[PciBar.Rom] == 0 ? 0 : Math.Max(2048, BitOperations.RoundUpToPowerOf2(sizes[PciBar.Rom]));
        Keep(PciHeader.PCI_ROM_ADDRESS, 4, rom == 0 ? 0 : ((uint)~(rom - 1) & ~0x7ffu) | PciHeader.PCI_ROM_ADDRESS_ENABLE);
        if (rom > 0)
            Bars[PciBar.Rom] = new PciBar(PciBarKind.Rom, rom);
        // A server may size its registers itself, or want to know where they are.
        _isToldToo.AsSpan(PciHeader.PCI_BASE_ADDRESS_0, 4 * PciBar.Rom).Fill(true);
        _isToldToo.AsSpan(PciHeader.PCI_ROM_ADDRESS, 4).Fill(true);
        Reset();
    }

    private void FindCapabilities()
    {
        if ((Word(PciHeader.PCI_STATUS) & PciStatus.PCI_STATUS_CAP_LIST) == 0)
            return;
        int at = _first[PciHeader.PCI_CAPABILITY_LIST] & ~3;
        // What points outside, or in a circle, ends the list.
        for (var i = 0; i < MaxCapabilities && at >= 0x40; i++)
        {
            var room = PciHeader.PCI_CFG_SPACE_SIZE - at;
            switch (_first[at])
            {
                case PciCapabilityId.PCI_CAP_ID_MSI when Msi == 0 && room >= MsiBytes:
                    Msi = at;
                    KeepMsi();
                    break;
                case PciCapabilityId.PCI_CAP_ID_MSIX when Msix == 0 && room >= PciMsix.PCI_CAP_MSIX_SIZEOF:
                    Msix = at;
                    Keep(at + PciMsix.PCI_MSIX_FLAGS, 2, PciMsix.PCI_MSIX_FLAGS_ENABLE | PciMsix.PCI_MSIX_FLAGS_MASKALL);
                    break;
                case PciCapabilityId.PCI_CAP_ID_EXP when Express == 0 && room >= PciExpress.PCI_EXP_LNKCAP:
                    Express = at;
                    break;
            }

            at = _first[at + PciCapabilityId.PCI_CAP_LIST_NEXT] & ~3;
        }

        Reset();
    }

    private void KeepMsi()
    {
        Keep(Msi + PciMsi.PCI_MSI_FLAGS, 2, PciMsi.PCI_MSI_FLAGS_ENABLE | PciMsi.PCI_MSI_FLAGS_QSIZE);
        Keep(Msi + PciMsi.PCI_MSI_ADDRESS_LO, 4, ~3u);
        var data = PciMsi.PCI_MSI_DATA_32;
        if (IsMsi64)
        {
            Keep(Msi + PciMsi.PCI_MSI_ADDRESS_HI, 4, uint.MaxValue);
            data = PciMsi.PCI_MSI_DATA_64;
        }

        Keep(Msi + data, 2, ushort.MaxValue);
        if (!HasMsiMasks)
            return;
        Keep(Msi + data + 4, 4, (uint)((1UL << MsiVectors) - 1));
        Keep(Msi + data + 8, 4, 0);
    }

    private void Keep(int offset, int length, uint writable)
    {
        for (var i = 0; i < length; i++)
        {
            _isKept[offset + i] = true;
            _writable[offset + i] = (byte)(writable >> (8 * i));
        }
    }
}
