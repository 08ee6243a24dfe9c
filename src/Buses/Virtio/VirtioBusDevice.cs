using System.Buffers.Binary;
using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Buses.Virtio;

/// <summary>A virtio device on the bus, as its driver sees it: features, configuration, queues. Made by <see cref="VirtioBus.AddAsync"/>.</summary>
/// <remarks>
/// The configuration may be read by any thread; queues are made, and the device is reset, by the driver in its probe, remove, freeze and restore. What a
/// device says is never believed: see <see cref="VirtioQueue"/>.
/// </remarks>
public sealed class VirtioBusDevice : Device, IVirtioIdentity
{
    private readonly VirtioBus _bus;
    private readonly IVirtioTransport _transport;
    private readonly Lock _changes = new();
    private VirtioQueue[] _queues = [];
    private VirtioDriver? _listener;
    private int _isChangePending;
    private bool _hasFailed;
    private bool _isStarted;
    private bool _isToldOfFailure;

    internal VirtioBusDevice(VirtioBus bus, uint id, Device parent, IVirtioTransport transport)
        : base($"virtio{id}", parent, bus)
    {
        _bus = bus;
        _transport = transport;
        VirtioType = transport.VirtioType;
        VendorId = transport.VendorId;
        DeviceFeatures = transport.DeviceFeatures;
        transport.SetConfigCallback(OnChange);
    }

    /// <inheritdoc/>
    public uint VirtioType { get; }

    /// <inheritdoc/>
    public uint VendorId { get; }

    /// <inheritdoc/>
    public VirtioFeatures DeviceFeatures { get; }

    /// <summary>Features that were settled at the last probe; none before.</summary>
    public VirtioFeatures Features { get; private set; }

    /// <summary>Whether it is driven as devices from before version 1.0 of the standard were.</summary>
    public bool IsLegacy => _transport.IsLegacy;

    /// <summary>Device status, see <see cref="VirtioStatus"/>; all ones when the device is gone.</summary>
    public byte Status => _transport.Status;

    /// <summary>Whether its driver gave it up, in a probe or at the end of a sleep, and did not begin anew. No register is read. Any thread.</summary>
    public bool HasFailed => Volatile.Read(ref _hasFailed);

    /// <summary>The queues that its driver has made.</summary>
    public IReadOnlyList<VirtioQueue> Queues => Volatile.Read(ref _queues);

    /// <summary>Whether a feature was settled.</summary>
    /// <param name="bit">Its number.</param>
    public bool Has(int bit) => Features.Has(bit);

    /// <summary>Allocates memory that the device reaches. It belongs into <see cref="Device.Resources"/>.</summary>
    /// <param name="bytes">How many; whole pages are given.</param>
    /// <exception cref="VirtbusException">ENOMEM; EPERM: the transport has no driver any more.</exception>
    public DmaBuffer Allocate(ulong bytes) => _transport.Group.TryAllocate(bytes, out var buffer, out var fault)
        ? buffer!
        : throw new VirtbusException(fault.Errno, $"Device {Name} got no {bytes} bytes of memory: {fault.Message}.");

    /// <summary>As <see cref="Allocate"/>, for who goes on without.</summary>
    /// <param name="bytes">How many; whole pages are given.</param>
    /// <param name="buffer">The memory.</param>
    /// <returns>Whether there is some.</returns>
    public bool TryAllocate(ulong bytes, out DmaBuffer? buffer) => _transport.Group.TryAllocate(bytes, out buffer, out _);

    /// <summary>Makes its queues; once after each reset.</summary>
    /// <param name="specs">What the driver asks for, each with a number of its own.</param>
    /// <returns>The queues, in the order of the specs.</returns>
    /// <exception cref="VirtbusException">As <see cref="IVirtioTransport.CreateQueues"/>.</exception>
    /// <exception cref="ArgumentException">Two of them have one number, or one has no descriptors.</exception>
    /// <exception cref="InvalidOperationException">The device is reset, so its features are not settled: a bug of the driver.</exception>
    public IReadOnlyList<VirtioQueue> CreateQueues(params ReadOnlySpan<VirtioQueueSpec> specs)
    {
        if (!_isStarted)
            throw new InvalidOperationException($"Device {Name} is reset, so it has no queues. They are made in a probe or a restore.");
        for (var i = 0; i < specs.Length; i++)
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(specs[i].MaxSize, 1, nameof(specs));
            for (var other = 0; other < i; other++)
            {
                if ((specs[i].Number ?? i) == (specs[other].Number ?? other))
                    throw new ArgumentException($"Queues {specs[other].Name} and {specs[i].Name} of device {Name} have one number.", nameof(specs));
            }
        }

        var queues = _transport.CreateQueues(specs, Features, OnBroken);
        Volatile.Write(ref _queues, queues);
        // A device that went meanwhile told nobody yet.
        if (IsGone)
            OnGone();
        return queues;
    }

    /// <summary>Sets DRIVER_OK: from here on the device uses buffers. Without effect when it is set; the bus does it after a probe that has not.</summary>
    /// <exception cref="VirtbusException">EINVAL: the device does not take it; EIO: it failed, and needs a reset; ENODEV: it is gone.</exception>
    public void Ready()
    {
        var status = Status;
        if (status == byte.MaxValue)
            throw Refused("it is gone", Errno.ENODEV);
        // It told nobody, as nobody was there to be told.
        if ((status & DEVICE_NEEDS_RESET) != 0)
            throw Refused("it failed, and needs a reset", Errno.EIO);
        if ((status & DRIVER_OK) == 0)
            SetStatus((byte)(status | DRIVER_OK));
    }

    /// <summary>Resets it, for its driver, and frees its queues, which nobody uses any more. Without effect when it is reset.</summary>
    /// <param name="quiet">Called when the device is reset and before the queues are freed: what it has handed back can be taken.</param>
    public void Reset(Action? quiet = null)
    {
        StopListening();
        if (!_isStarted)
            return;
        _isStarted = false;
        // A device that does not answer has its memory taken away all the same: what it does with it afterwards faults.
        if (!_transport.TryReset(out var fault) && !IsGone)
            VirtioLog.NotReset(_bus.Log, Name, fault.Message, fault.Errno);
        quiet?.Invoke();
        Volatile.Write(ref _queues, []);
        _transport.DeleteQueues();
    }

    /// <summary>Reads the configuration space in one piece.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">As <see cref="IVirtioTransport.TryReadConfig"/>.</param>
    /// <returns>Whether what was read is of one moment.</returns>
    public bool TryReadConfig(int offset, Span<byte> destination, out Fault fault) => _transport.TryReadConfig(offset, destination, out fault);

    /// <summary>Reads a field of two bytes.</summary>
    /// <param name="offset">Its first byte.</param>
    /// <exception cref="VirtbusException">It can't be read.</exception>
    public ushort ReadConfigUInt16(int offset)
    {
        Span<byte> bytes = stackalloc byte[2];
        ReadConfig(offset, bytes);
        return BinaryPrimitives.ReadUInt16LittleEndian(bytes);
    }

    /// <summary>Reads the configuration space in one piece, for a probe.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <exception cref="VirtbusException">As <see cref="IVirtioTransport.TryReadConfig"/>.</exception>
    public void ReadConfig(int offset, Span<byte> destination)
    {
        if (!TryReadConfig(offset, destination, out var fault))
            throw Refused($"its configuration at {offset} can't be read: {fault.Message}", fault.Errno);
    }

    /// <summary>Writes the configuration space.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from: 1, 2 or 4 bytes.</param>
    public void WriteConfig(int offset, ReadOnlySpan<byte> source) => _transport.WriteConfig(offset, source);

    /// <inheritdoc/>
    protected override void OnGone() => BreakAll(new Fault(Errno.ENODEV, "the device is gone"));

    internal static readonly AttributeGroup[] Groups =
    [
        new(
            new ObjectAttribute<VirtioBusDevice>("device", static d => $"0x{d.VirtioType:x4}"),
            new ObjectAttribute<VirtioBusDevice>("vendor", static d => $"0x{d.VendorId:x4}"),
            new ObjectAttribute<VirtioBusDevice>("status", static d => $"0x{d.Status:x8}"),
            new ObjectAttribute<VirtioBusDevice>("features", static d => string.Create(VirtioFeatures.Count, d.Features, static (text, features) =>
            {
                // Bit 0 first.
                for (var bit = 0; bit < text.Length; bit++)
                    text[bit] = features.Has(bit) ? '1' : '0';
            }))),
    ];

    /// <summary>The device is found: it is reset, whoever had it before, and acknowledged.</summary>
    internal void Acknowledge()
    {
        if (!_transport.TryReset(out var fault))
            throw Refused($"{fault.Message}. Reset its function, or plug it in anew", fault.Errno);
        SetStatus(ACKNOWLEDGE);
    }

    /// <summary>A driver is about to probe: features are settled.</summary>
    internal void Start(VirtioDriver driver)
    {
        try
        {
            if (Status != ACKNOWLEDGE)
                Acknowledge();
            SetStatus(ACKNOWLEDGE | VirtioStatus.DRIVER);
            var offered = DeviceFeatures & (driver.Features | _transport.TransportFeatures);
            var wanted = driver.Validate(this, offered);
            if (!wanted.IsWithin(offered))
                throw Refused($"driver {driver.Name} takes features that not both of them have: {wanted & ~offered}", Errno.EINVAL);
            Settle(wanted);
        }
        catch
        {
            Fail();
            throw;
        }
    }

    /// <summary>After a sleep: all is as before the probe, with the features as they were.</summary>
    internal void Restart()
    {
        Acknowledge();
        SetStatus(ACKNOWLEDGE | VirtioStatus.DRIVER);
        Settle(Features);
    }

    /// <summary>The driver gives it up: nothing of it runs, and its status says so.</summary>
    internal void Fail()
    {
        _isStarted = true;
        Reset();
        Volatile.Write(ref _hasFailed, true);
        _transport.TrySetStatus(ACKNOWLEDGE | VirtioStatus.DRIVER | FAILED, out _);
    }

    /// <summary>The driver is gone; the device waits for the next one.</summary>
    internal void Stop()
    {
        Reset();
        if (!HasFailed && !IsGone)
            _transport.TrySetStatus(ACKNOWLEDGE, out _);
    }

    internal void Listen(VirtioDriver driver)
    {
        lock (_changes)
            _listener = driver;
        // What changed since the probe looked is told once too often rather than never.
        if (Interlocked.Exchange(ref _isChangePending, 0) != 0)
            OnChange();
    }

    internal void StopListening()
    {
        lock (_changes)
            _listener = null;
    }

    private void Settle(VirtioFeatures features)
    {
        _isStarted = true;
        Volatile.Write(ref _hasFailed, false);
        _isToldOfFailure = false;
        if (!_transport.TrySettleFeatures(features, out var fault))
            throw Refused($"its features can't be settled: {fault.Message}", fault.Errno);
        Features = features;
    }

    private void SetStatus(byte status)
    {
        if (!_transport.TrySetStatus(status, out var fault))
            throw Refused($"it does not take the status 0x{status:x2}: {fault.Message}", fault.Errno);
    }

    private void OnBroken(VirtioQueue queue, Fault fault)
    {
        if (!IsGone)
            VirtioLog.QueueBroken(_bus.Log, Name, queue.Index, queue.Name, fault.Message);
    }

    // On the thread that interrupts, which may hold what a read of a register waits for.
    private void OnChange()
    {
        if (Interlocked.Exchange(ref _isChangePending, 1) == 0 && Volatile.Read(ref _listener) is not null)
            Fabric?.StartNotice("change of the configuration of " + Name, TakeChangeAsync);
    }

    private Task TakeChangeAsync()
    {
        lock (_changes)
        {
            Volatile.Write(ref _isChangePending, 0);
            if (_listener is not { } driver || IsGone)
                return Task.CompletedTask;
            var status = Status;
            if (status != byte.MaxValue && (status & DEVICE_NEEDS_RESET) != 0)
            {
                // The bit stays, and the device may interrupt as often as it likes.
                if (!_isToldOfFailure)
                    VirtioLog.NeedsReset(_bus.Log, Name, driver.Name);
                _isToldOfFailure = true;
                BreakAll(new Fault(Errno.EIO, "the device failed, and needs a reset"));
            }

            try
            {
                driver.OnConfigChanged(this);
            }
            catch (Exception e)
            {
                VirtioLog.ChangeFailed(_bus.Log, Name, driver.Name, e);
            }
        }

        return Task.CompletedTask;
    }

    // A callback that fails is its driver's bug, and the other queues have one too.
    private void BreakAll(Fault fault)
    {
        foreach (var queue in Queues)
        {
            try
            {
                queue.Break(fault);
            }
            catch (Exception e)
            {
                VirtioLog.CallbackFailed(_bus.Log, Name, queue.Index, queue.Name, e);
            }
        }

        _transport.BreakOwn(fault);
    }

    private VirtbusException Refused(string what, Errno errno) => new(errno == Errno.None ? Errno.EIO : errno, $"Device {Name}: {what}.");
}
