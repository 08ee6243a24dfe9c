using System.Buffers.Binary;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <summary>A PCI Express root port: a bridge with a slot behind. It is part of the bus, so it has no registers beside its config space.</summary>
internal sealed class RootPortFunction : IPciFunction
{
    // QEMU's ids for the same thing, so that lspci knows it.
    private const ushort Vendor = 0x1B36;
    private const ushort Device = 0x000C;
    private const int Express = 0x40;
    private const int Ids = 0x80;

    private readonly Lock _lock = new();
    private readonly byte[] _config = new byte[256];
    private readonly byte[] _writable = new byte[256];

    public RootPortFunction(int slot)
    {
        var config = _config.AsSpan();
        BinaryPrimitives.WriteUInt16LittleEndian(config, Vendor);
        BinaryPrimitives.WriteUInt16LittleEndian(config[ConfigOffset.DeviceId..], Device);
        BinaryPrimitives.WriteUInt32LittleEndian(config[ConfigOffset.Revision..], 0x0604_0000);
        config[ConfigOffset.HeaderType] = 1;
        config[ConfigOffset.CapabilityPointer] = Express;
        // A capability list; 32-bit I/O and 64-bit prefetchable windows.
        config[ConfigOffset.Status] = 0x10;
        (config[ConfigOffset.IoBase], config[ConfigOffset.IoLimit]) = (1, 1);
        (config[ConfigOffset.PrefetchBase], config[ConfigOffset.PrefetchLimit]) = (1, 1);
        // Version 2, root port with a slot.
        config[Express] = ConfigOffset.Express;
        config[Express + 1] = Ids;
        BinaryPrimitives.WriteUInt16LittleEndian(config[(Express + 2)..], 0x0142);
        // 16 GT/s, 16 lanes, as capability and as the state of the link.
        BinaryPrimitives.WriteUInt32LittleEndian(config[(Express + ConfigOffset.ExpressLinkCapabilities)..], 0x0000_0104 | ((uint)slot << 24));
        BinaryPrimitives.WriteUInt16LittleEndian(config[(Express + ConfigOffset.ExpressLinkStatus)..], 0x0104);
        // Hot plug with surprise; the slot's number.
        BinaryPrimitives.WriteUInt32LittleEndian(config[(Express + 0x14)..], 0x60 | ((uint)slot << 19));
        BinaryPrimitives.WriteUInt32LittleEndian(config[(Express + ConfigOffset.ExpressDeviceCapabilities2)..], ConfigOffset.ExpressAriForwarding);
        BinaryPrimitives.WriteUInt32LittleEndian(config[(Express + 0x2C)..], 0x1E);
        config[Ids] = ConfigOffset.SubsystemIds;
        BinaryPrimitives.WriteUInt16LittleEndian(config[(Ids + 4)..], Vendor);
        SetWritable();
    }

    public int ConfigSize => _config.Length;

    public bool IsPresent => true;

    public IReadOnlyList<PciDoorbell> Doorbells => [];

    public IReadOnlyList<IPciFunction> VirtualFunctions => [];

    public void SetLostCallback(Action? lost)
    {
        // Part of the bus: it is never lost.
    }

    public void ReadConfig(int offset, Span<byte> destination)
    {
        lock (_lock)
            _config.AsSpan(offset, destination.Length).CopyTo(destination);
    }

    public void WriteConfig(int offset, ReadOnlySpan<byte> source)
    {
        lock (_lock)
        {
            for (var i = 0; i < source.Length; i++)
            {
                var mask = _writable[offset + i];
                _config[offset + i] = (byte)((_config[offset + i] & ~mask) | (source[i] & mask));
            }
        }
    }

    public PciBar GetBar(int bar) => default;

    public IReadOnlyList<PciBarArea> GetBarAreas(int bar) => [];

    public void ReadBar(int bar, ulong offset, Span<byte> destination) => destination.Fill(0xFF);

    public void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        // No BAR.
    }

    public bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        fault = new Fault(Errno.ENOENT, "a bridge has no doorbells");
        return false;
    }

    public void Plug(IPciPort port)
    {
        // It does no DMA and raises no interrupt.
    }

    public void Unplug()
    {
        // As above.
    }

    public void Reset()
    {
        lock (_lock)
        {
            for (var i = 0; i < _config.Length; i++)
                _config[i] &= (byte)~_writable[i];
        }
    }

    public void Dispose()
    {
        // Holds nothing.
    }

    private void SetWritable()
    {
        var mask = _writable.AsSpan();
        BinaryPrimitives.WriteUInt16LittleEndian(mask[ConfigOffset.Command..], 0x0547);
        mask[0x0C] = 0xFF;
        mask[ConfigOffset.PrimaryBus..(ConfigOffset.PrimaryBus + 4)].Fill(0xFF);
        (mask[ConfigOffset.IoBase], mask[ConfigOffset.IoLimit]) = (0xF0, 0xF0);
        for (var at = ConfigOffset.MemoryBase; at <= ConfigOffset.PrefetchLimit; at += 2)
            BinaryPrimitives.WriteUInt16LittleEndian(mask[at..], 0xFFF0);
        mask[ConfigOffset.PrefetchBaseUpper..0x34].Fill(0xFF);
        mask[ConfigOffset.InterruptLine] = 0xFF;
        BinaryPrimitives.WriteUInt16LittleEndian(mask[ConfigOffset.BridgeControl..], 0x005F);
        BinaryPrimitives.WriteUInt16LittleEndian(mask[(Express + ConfigOffset.ExpressDeviceControl)..], 0x70EF);
        BinaryPrimitives.WriteUInt16LittleEndian(mask[(Express + ConfigOffset.ExpressLinkControl)..], 0x00DB);
        BinaryPrimitives.WriteUInt16LittleEndian(mask[(Express + 0x18)..], 0x0FFF);
        BinaryPrimitives.WriteUInt16LittleEndian(mask[(Express + 0x1C)..], 0x000F);
        BinaryPrimitives.WriteUInt16LittleEndian(mask[(Express + ConfigOffset.ExpressDeviceControl2)..], ConfigOffset.ExpressAriForwarding);
    }
}
