using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Buses.Vdpa;

/// <summary>
/// A device model as the operations of a vDPA device, with no hardware between: what a provider registers that simulates. The first 64
/// feature bits are what vDPA carries. Threads and order of use are those of <see cref="IVdpaOps"/>.
/// </summary>
public sealed class VirtioDeviceOps : IVdpaOps, IDisposable
{
    private readonly VirtioDevice _device;
    private readonly DmaPort _port;
    private readonly VdpaCallLine[] _calls;
    private readonly VdpaCallLine[] _errors;
    private Action<int, Fault>? _queueFaulted;
    private int _disposed;

    /// <summary>Takes a model over.</summary>
    /// <param name="device">The model; it is disposed with this object, and its callbacks and its queues' interrupts are this object's.</param>
    /// <param name="vendorId">Virtio vendor id.</param>
    public VirtioDeviceOps(VirtioDevice device, uint vendorId = 0)
    {
        ArgumentNullException.ThrowIfNull(device);
        _device = device;
        VendorId = vendorId;
        // A group of its own: whoever drives the device says alone what it reaches.
        _port = new DmaPort(device.Name, new IommuGroup(0)) { IsBusMaster = true };
        if (!_port.Group.TryClaimForUser(this, device.Name, out var fault))
            throw new InvalidOperationException(fault.Message);
        _calls = new VdpaCallLine[device.QueueCount];
        _errors = new VdpaCallLine[device.QueueCount];
        for (var i = 0; i < _calls.Length; i++)
        {
            _calls[i] = new VdpaCallLine(isShared: false);
            // A queue that is stopped waits for its fault to be told, so that may not hang.
            _errors[i] = new VdpaCallLine(isShared: true);
            device.SetQueueInterrupt(i, _calls[i].Signal);
        }
        device.SetQueueFaultCallback(OnFault);
        _port.SetChangeCallback(OnMapChange);
    }

    /// <inheritdoc/>
    public uint DeviceId => _device.DeviceId;

    /// <inheritdoc/>
    public uint VendorId { get; }

    /// <inheritdoc/>
    public int QueueCount => _device.QueueCount;

    /// <inheritdoc/>
    public int MaxQueueSize => _device.MaxQueueSize;

    /// <inheritdoc/>
    public ulong DeviceFeatures => _device.DeviceFeatures.Low;

    /// <inheritdoc/>
    public ulong DriverFeatures => _device.DriverFeatures.Low;

    /// <inheritdoc/>
    public int ConfigSize => _device.ConfigSize;

    /// <inheritdoc/>
    public uint ConfigGeneration => _device.ConfigGeneration;

    /// <inheritdoc/>
    public byte Status => _device.Status;

    /// <inheritdoc/>
    public bool TrySetDriverFeatures(ulong features, out Fault fault) => _device.TrySetDriverFeatures(new VirtioFeatures(features), out fault);

    /// <inheritdoc/>
    public bool TryGetConfig(int offset, Span<byte> destination, out Fault fault) => _device.TryGetConfig(offset, destination, out fault);

    /// <inheritdoc/>
    public bool TrySetConfig(int offset, ReadOnlySpan<byte> source, out Fault fault) => _device.TrySetConfig(offset, source, out fault);

    /// <inheritdoc/>
    public void SetConfigCallback(Action? callback) => _device.SetConfigCallback(callback);

    /// <inheritdoc/>
    public bool TrySetStatus(byte status, out Fault fault)
    {
        if (status != 0)
            return _device.TrySetStatus(status, out fault);
        Reset();
        fault = Fault.None;
        return true;
    }

    /// <inheritdoc/>
    public void Reset()
    {
        using (Quiet())
            _device.Reset();
    }

    /// <inheritdoc/>
    public void BeginUse()
    {
        using (Quiet())
            _device.BeginUse();
    }

    /// <inheritdoc/>
    public void SetAddressSpace(IoAddressSpace? space)
    {
        // Not refused but when the device is gone; it reaches nothing then, as it should.
        _port.Group.TryAttach(this, _port, space, out _);
    }

    /// <inheritdoc/>
    public bool TrySetQueueAddress(int queue, Iova descriptorArea, Iova driverArea, Iova deviceArea, out Fault fault) =>
        _device.TrySetQueueAddress(queue, descriptorArea, driverArea, deviceArea, out fault);

    /// <inheritdoc/>
    public bool TrySetQueueSize(int queue, int size, out Fault fault) => _device.TrySetQueueSize(queue, size, out fault);

    /// <inheritdoc/>
    public bool TrySetQueueReady(int queue, bool ready, out Fault fault)
    {
        using (Quiet())
            return _device.TrySetQueueReady(queue, ready, out fault);
    }

    /// <inheritdoc/>
    public bool IsQueueReady(int queue) => _device.IsQueueReady(queue);

    /// <inheritdoc/>
    public bool TrySetQueueState(int queue, QueueState state, out Fault fault) => _device.TrySetQueueState(queue, state, out fault);

    /// <inheritdoc/>
    public QueueState GetQueueState(int queue) => _device.GetQueueState(queue);

    /// <inheritdoc/>
    public void SetQueueKick(int queue, EventFd? kick)
    {
        using (Quiet())
            _device.SetQueueKick(queue, kick);
    }

    /// <inheritdoc/>
    public void SetQueueCall(int queue, EventFd? call) => At(_calls, queue).Set(call);

    /// <inheritdoc/>
    public void SetQueueError(int queue, EventFd? error) => At(_errors, queue).Set(error);

    /// <inheritdoc/>
    public void KickQueue(int queue) => _device.KickQueue(queue);

    /// <inheritdoc/>
    public void SetQueueFaultCallback(Action<int, Fault>? callback) => Volatile.Write(ref _queueFaulted, callback);

    /// <inheritdoc/>
    public QueueCounters GetQueueCounters(int queue) => _device.GetQueueCounters(queue);

    /// <summary>Stops the device and frees it. What is behind it, a disk's back end for one, stays with who made that.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        _port.SetChangeCallback(null);
        _port.Group.ReleaseUser(this);
        using (Quiet())
            _device.Dispose();
    }

    private static VdpaCallLine At(VdpaCallLine[] lines, int queue)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)queue, (uint)lines.Length, nameof(queue));
        return lines[queue];
    }

    private VdpaQuiet Quiet() => new(_calls);

    // Who changed the map waits for this to return; nothing uses the old one then.
    private void OnMapChange()
    {
        if (Volatile.Read(ref _disposed) != 0)
            return;
        using (Quiet())
        {
            using var map = _port.Snapshot();
            _device.SetMap(map);
        }
    }

    private void OnFault(int queue, Fault fault)
    {
        _errors[queue].Signal();
        Volatile.Read(ref _queueFaulted)?.Invoke(queue, fault);
    }
}
