using System.Buffers.Binary;
using System.Text;
using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Models.VirtioBlk;

/// <summary>
/// A virtio block device (VIRTIO 1.2, 5.2) on a back end. Threads: see <see cref="VirtioDevice"/>. A model that differs in what it offers or
/// shows derives from it.
/// </summary>
public class VirtioBlkDevice : VirtioDevice
{
    private static readonly VirtioFeatures Offered = VirtioFeatures.Of(
        VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_MQ,
        VirtioFeatures.VIRTIO_F_INDIRECT_DESC, VirtioFeatures.VIRTIO_F_EVENT_IDX, VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_IN_ORDER);

    private static readonly VirtioFeatures Packed = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_RING_PACKED);

    private const string StateSectionName = "virtio-blk";
    private const ushort StateVersion = 1;
    // Capacity 8, flags 1.
    private const int StateSize = 9;
    private const byte WritebackFlag = 1;
    private const byte ModeKnownFlag = 2;
    private const byte HasRunFlag = 4;

    private readonly byte[] _config;
    private readonly IBlockBackend _backend;
    private readonly ICacheModeStore _cacheMode;
    private volatile bool _writeback;
    private volatile bool _isModeKnown;
    private bool _hasRun;
    // What the driver knows of: less than there is while it has not been told.
    private long _toldCapacity;

    /// <summary>Makes a device, reset, with no driver.</summary>
    /// <param name="name">What it is called in logs and thread names.</param>
    /// <param name="backend">Where its blocks are; it stays the caller's and outlives the device.</param>
    /// <param name="serial">What GET_ID answers: at most 20 bytes of ASCII.</param>
    /// <param name="queueCount">Number of request queues, 1 to 256.</param>
    /// <param name="maxQueueSize">The largest queue size, a power of two.</param>
    /// <param name="cacheMode">Keeps the cache mode that drivers choose, for the devices and programs after this one; null for as long as the device lives.</param>
    /// <param name="packed">Whether it offers VIRTIO_F_RING_PACKED.</param>
    /// <exception cref="VirtbusException">EINVAL for a number or serial out of bounds.</exception>
    public VirtioBlkDevice(
        string name, IBlockBackend backend, string serial, int queueCount = 1, int maxQueueSize = 1024, ICacheModeStore? cacheMode = null, bool packed = false)
        : base(name, queueCount, maxQueueSize)
    {
        if (serial.Length > IdSize || !Ascii.IsValid(serial))
            throw new VirtbusException(Errno.EINVAL, $"Serial '{serial}' of device '{name}' does not fit. Choose at most {IdSize} ASCII characters.");
        _backend = backend;
        _config = Build(backend, queueCount);
        DeviceFeatures = OfferedBy(backend.Info) | (packed ? Packed : VirtioFeatures.None);
        _toldCapacity = backend.Info.Capacity;
        _cacheMode = cacheMode ?? new VolatileCacheMode();
        _writeback = _cacheMode.IsWriteback;
        Serial = new byte[IdSize];
        Encoding.ASCII.GetBytes(serial, Serial);
        CreateQueues(_ => new VirtioBlkQueues(this, backend));
        backend.InfoChanged += OnInfoChanged;
    }

    /// <inheritdoc/>
    public override uint DeviceId => VirtioDeviceId.VIRTIO_ID_BLOCK;

    /// <inheritdoc/>
    public override VirtioFeatures DeviceFeatures { get; }

    /// <inheritdoc/>
    public override int ConfigSize => Size;

    internal byte[] Serial { get; }

    /// <summary>
    /// Whether there is a write-back cache for a driver that took VIRTIO_BLK_F_CONFIG_WCE. Not for one that did not ask which mode is in force
    /// before its first queue ran: it goes on from a connection before this one, and may rely on write-through.
    /// </summary>
    internal bool Writeback => _writeback && _isModeKnown;

    /// <summary>A queue is about to run.</summary>
    internal void QueueStarts() => _hasRun = true;

    /// <inheritdoc/>
    protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures)
    {
        if (!_hasRun && IsWithin(offset, destination.Length))
            _isModeKnown = true;
        _config[WritebackOffset] = ShowsWriteback(driverFeatures) ? (byte)1 : (byte)0;
        _config.AsSpan(offset, destination.Length).CopyTo(destination);
    }

    /// <inheritdoc/>
    protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault)
    {
        if (offset != WritebackOffset || source.Length != 1)
            return Refuse(Errno.EROFS, "the only field that a driver may write is writeback", out fault);
        // A front end may hand a write on before it says which features the driver behind it took.
        if (driverFeatures is { } taken && !taken.Has(VIRTIO_BLK_F_CONFIG_WCE))
            return Refuse(Errno.EROFS, "writeback may not be written without VIRTIO_BLK_F_CONFIG_WCE", out fault);
        if (source[0] > 1)
            return Refuse(Errno.EINVAL, "writeback is 0 or 1", out fault);
        var writeback = source[0] == 1;
        // Without VIRTIO_BLK_F_FLUSH the field stays 0: nothing would ever empty the cache.
        if (writeback && driverFeatures is { } features && !features.Has(VIRTIO_BLK_F_FLUSH))
            return Done(out fault);
        if (writeback != _cacheMode.IsWriteback && !_cacheMode.TryKeep(writeback, out fault))
            return false;
        _writeback = writeback;
        _isModeKnown = true;
        return Done(out fault);
    }

    /// <inheritdoc/>
    protected override void OnDriverReset()
    {
        _isModeKnown = false;
        _hasRun = false;
    }

    /// <inheritdoc/>
    protected override void OnBeginUse()
    {
        _writeback = _cacheMode.IsWriteback;
        OnDriverReset();
    }

    /// <inheritdoc/>
    protected override bool TrySaveModel(StateWriter writer, out Fault fault)
    {
        Span<byte> content = stackalloc byte[StateSize];
        if (!OwesConfigNotice)
            _toldCapacity = _backend.Info.Capacity;
        BinaryPrimitives.WriteInt64LittleEndian(content, _toldCapacity);
        content[8] = (byte)((_writeback ? WritebackFlag : 0) | (_isModeKnown ? ModeKnownFlag : 0) | (_hasRun ? HasRunFlag : 0));
        writer.Add(StateSectionName, StateVersion, content);
        return Done(out fault);
    }

    /// <inheritdoc/>
    protected override bool TryReadModel(StateReader reader, VirtioFeatures driverFeatures, out Action apply, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(reader);
        apply = static () => { };
        if (!reader.TryTake(StateSectionName, StateVersion, StateSize, StateSize, out var section, out fault))
            return false;
        var capacity = BinaryPrimitives.ReadInt64LittleEndian(section.Content.Span);
        var flags = section.Content.Span[8];
        // One that grew is told of by its configuration; blocks that a driver knows must be there.
        if (capacity > _backend.Info.Capacity || capacity < 0)
            return Refuse(Errno.EINVAL, $"section '{section.Name}', version {section.Version}, is of a disk of {capacity} bytes; this one has {_backend.Info.Capacity}", out fault);
        if (flags > (WritebackFlag | ModeKnownFlag | HasRunFlag))
            return Refuse(Errno.EINVAL, $"section '{section.Name}', version {section.Version}, has flags 0x{flags:x} that there are not", out fault);
        apply = () =>
        {
            _writeback = (flags & WritebackFlag) != 0;
            _isModeKnown = (flags & ModeKnownFlag) != 0;
            _hasRun = (flags & HasRunFlag) != 0;
            _toldCapacity = capacity;
            // The driver knows a smaller disk.
            if (capacity != _backend.Info.Capacity)
                ChangeConfig(static () => { });
        };
        return true;
    }

    /// <inheritdoc/>
    protected override void OnDispose() => _backend.InfoChanged -= OnInfoChanged;

    private void OnInfoChanged(object? sender, EventArgs e) => ChangeConfig(() => SetCapacity(_config, _backend.Info));

    private static VirtioFeatures OfferedBy(BlockInfo info)
    {
        var features = info.IsReadOnly ? Offered.With(VIRTIO_BLK_F_RO) : Offered;
        features = HasTopology(info) ? features.With(VIRTIO_BLK_F_TOPOLOGY) : features;
        features = Discards(info) ? features.With(VIRTIO_BLK_F_DISCARD) : features;
        return WritesZeroes(info) ? features.With(VIRTIO_BLK_F_WRITE_ZEROES) : features;
    }

    private static bool IsWithin(int offset, int length) => offset <= WritebackOffset && WritebackOffset - offset < length;

    // The mode that is in force (5.2.5, 5.2.6.2). Without FLUSH every write is durable; with FLUSH alone the driver takes it that there is a cache.
    private bool ShowsWriteback(VirtioFeatures? driverFeatures)
    {
        if (driverFeatures is { } features && !features.Has(VIRTIO_BLK_F_FLUSH))
            return false;
        if (driverFeatures is { } others && !others.Has(VIRTIO_BLK_F_CONFIG_WCE))
            return true;
        return _hasRun ? Writeback : _writeback;
    }
}
