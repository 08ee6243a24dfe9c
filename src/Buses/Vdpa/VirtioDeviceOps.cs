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
    private readonly StandaloneDma _dma;
    private readonly SignalLine[] _calls;
    private readonly SignalLine[] _errors;
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
        _dma = new StandaloneDma(device.Name);
        _calls = new SignalLine[device.QueueCount];
        _errors = new SignalLine[device.QueueCount];
        for (var i = 0; i < _calls.Length; i++)
        {
            _calls[i] = new SignalLine(isShared: false);
            // A queue that is stopped waits for its fault to be told, so that may not hang.
            _errors[i] = new SignalLine(isShared: true);
            device.SetQueueInterrupt(i, _calls[i].Signal);
        }
        device.SetQueueFaultCallback(OnFault);
        device.SetDma(_dma.Port);
        _dma.Port.SetChangeCallback(OnDmaChange);
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
    public void SetAddressSpace(IoAddressSpace? space) => _dma.Attach(space);

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

    /// <inheritdoc/>
    public void SetFaultSource(FaultSource faults) => _device.Faults = faults;

    /// <summary>Stops the device and frees it. What is behind it, a disk's back end for one, stays with who made that.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        _dma.Attach(null);
        using (Quiet())
            _device.Dispose();
    }

    private static SignalLine At(SignalLine[] lines, int queue)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)queue, (uint)lines.Length, nameof(queue));
        return lines[queue];
    }

    private VdpaQuiet Quiet() => new(_calls);

    // What is mapped more is waited for by nobody; what goes waits for queues.
    private void OnDmaChange(DmaChange change)
    {
        if (change.Kind == DmaChangeKind.Mapped)
        {
            _device.HandleDmaChange(change);
            return;
        }

        using (Quiet())
            _device.HandleDmaChange(change);
    }

    private void OnFault(int queue, Fault fault)
    {
        _errors[queue].Signal();
        Volatile.Read(ref _queueFaulted)?.Invoke(queue, fault);
    }
}
