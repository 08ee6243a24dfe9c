using System.Buffers.Binary;
using Virtbus.Models.VirtioBlk;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Testing;

/// <summary>Reads and writes a virtio block device model as its driver does, one request at a time (VIRTIO 1.3, 5.2.6). One thread uses it.</summary>
public sealed class VirtioBlkUser : IDisposable
{
    private const int HeaderSize = 16;
    private readonly VirtioModelDriver _driver;

    /// <summary>Brings a device up.</summary>
    /// <param name="device">The device; it stays the caller's.</param>
    /// <param name="without">Features that the driver does not take.</param>
    /// <exception cref="ExpectationException">The device refuses a step.</exception>
    public VirtioBlkUser(VirtioBlkDevice device, VirtioFeatures without = default) => _driver = new VirtioModelDriver(device, without);

    /// <summary>The driver below.</summary>
    public VirtioModelDriver Driver => _driver;

    /// <summary>Reads.</summary>
    /// <param name="sector">The first sector of 512 bytes.</param>
    /// <param name="bytes">Where to; a multiple of 512 bytes.</param>
    /// <returns>VIRTIO_BLK_S_OK, S_IOERR or S_UNSUPP.</returns>
    public byte Read(ulong sector, Span<byte> bytes)
    {
        var data = _driver.Take(bytes.Length);
        var status = Do(VirtioBlkConfig.VIRTIO_BLK_T_IN, sector, new DriverBuffer(data, (uint)bytes.Length, true));
        _driver.Read(data, bytes);
        return status;
    }

    /// <summary>Writes.</summary>
    /// <param name="sector">The first sector of 512 bytes.</param>
    /// <param name="bytes">What is written; a multiple of 512 bytes.</param>
    /// <returns>VIRTIO_BLK_S_OK, S_IOERR or S_UNSUPP.</returns>
    public byte Write(ulong sector, ReadOnlySpan<byte> bytes)
    {
        var data = _driver.Take(bytes.Length);
        _driver.Write(data, bytes);
        return Do(VirtioBlkConfig.VIRTIO_BLK_T_OUT, sector, new DriverBuffer(data, (uint)bytes.Length, false));
    }

    /// <summary>Makes what was written durable.</summary>
    /// <returns>VIRTIO_BLK_S_OK, S_IOERR or S_UNSUPP.</returns>
    public byte Flush() => Do(VirtioBlkConfig.VIRTIO_BLK_T_FLUSH, 0);

    /// <summary>Resets the device.</summary>
    public void Dispose() => _driver.Dispose();

    private byte Do(uint type, ulong sector, params ReadOnlySpan<DriverBuffer> data)
    {
        Span<byte> bytes = stackalloc byte[HeaderSize];
        bytes.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, type);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[8..], sector);
        var header = _driver.Take(HeaderSize);
        _driver.Write(header, bytes);
        var status = _driver.Take(1);
        _driver.Write(status, [0xFF]);
        _driver.Request([new DriverBuffer(header, HeaderSize, false), .. data, new DriverBuffer(status, 1, true)]);
        _driver.Read(status, bytes[..1]);
        return bytes[0];
    }
}
