using System.Text;
using Virtbus.Hardware.Block;
using Virtbus.Hardware.Virtio;
using Virtbus.Platform;
using static Virtbus.Hardware.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Hardware.VirtioBlk;

/// <summary>A virtio block device (VIRTIO 1.2, 5.2) on a backend. Threads: see <see cref="VirtioDevice"/>.</summary>
public sealed class VirtioBlkDevice : VirtioDevice
{
    private readonly byte[] _config;
    private readonly bool _readOnly;
    private volatile bool _writeback = true;

    /// <summary>Makes a device, reset, with no driver.</summary>
    /// <param name="name">What it is called in logs and thread names.</param>
    /// <param name="backend">Where its blocks are; it stays the caller's and outlives the device.</param>
    /// <param name="serial">What GET_ID answers: at most 20 bytes of ASCII.</param>
    /// <param name="queueCount">Number of request queues, 1 to 256.</param>
    /// <param name="maxQueueSize">The largest queue size, a power of two.</param>
    /// <exception cref="VirtbusException">EINVAL for a number or serial out of bounds.</exception>
    public VirtioBlkDevice(string name, IBlockBackend backend, string serial, int queueCount = 1, int maxQueueSize = 1024)
        : base(name, queueCount, maxQueueSize)
    {
        if (serial.Length > IdSize || !Ascii.IsValid(serial))
            throw new VirtbusException(Errno.EINVAL, $"Serial '{serial}' of device '{name}' does not fit. Choose at most {IdSize} ASCII characters.");
        _config = Build(backend, queueCount);
        _readOnly = backend.IsReadOnly;
        Serial = new byte[IdSize];
        Encoding.ASCII.GetBytes(serial, Serial);
        CreateQueues(_ => new VirtioBlkQueues(this, backend));
    }

    /// <inheritdoc/>
    public override uint DeviceId => 2;

    /// <inheritdoc/>
    public override ulong DeviceFeatures =>
        VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_MQ |
        (_readOnly ? VIRTIO_BLK_F_RO : 0) |
        VirtioFeatures.VIRTIO_F_INDIRECT_DESC | VirtioFeatures.VIRTIO_F_EVENT_IDX | VirtioFeatures.VIRTIO_F_VERSION_1;

    /// <inheritdoc/>
    public override int ConfigSize => Size;

    internal byte[] Serial { get; }

    /// <summary>Whether the driver asks for a writeback cache; only meaningful with VIRTIO_BLK_F_CONFIG_WCE.</summary>
    internal bool Writeback => _writeback;

    private protected override void ReadConfig(int offset, Span<byte> destination)
    {
        _config[WritebackOffset] = _writeback ? (byte)1 : (byte)0;
        _config.AsSpan(offset, destination.Length).CopyTo(destination);
    }

    private protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, ulong driverFeatures, out Fault fault)
    {
        if (offset != WritebackOffset || source.Length != 1)
            return Refuse(Errno.EROFS, "the only field that a driver may write is writeback", out fault);
        if ((driverFeatures & VIRTIO_BLK_F_CONFIG_WCE) == 0)
            return Refuse(Errno.EROFS, "writeback may not be written without VIRTIO_BLK_F_CONFIG_WCE", out fault);
        if (source[0] > 1)
            return Refuse(Errno.EINVAL, "writeback is 0 or 1", out fault);
        _writeback = source[0] == 1;
        return Done(out fault);
    }

    private protected override void ResetConfig() => _writeback = true;
}
