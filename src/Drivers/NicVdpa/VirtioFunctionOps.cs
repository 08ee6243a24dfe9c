using System.Buffers.Binary;
using System.Text;
using Virtbus.Buses.Vdpa;
using Virtbus.Drivers.Nic;
using Virtbus.Memory;
using Virtbus.Memory.Rings;
using Virtbus.Platform;
using static Virtbus.Drivers.NicVdpa.WindowRegister;

namespace Virtbus.Drivers.NicVdpa;

/// <summary>
/// A virtio function of an adapter as the operations of a vDPA device: every operation is a few register accesses. The function serves its
/// queues itself: a kick goes to it by the user's eventfd, its interrupts come as signals of the user's.
/// </summary>
internal sealed class VirtioFunctionOps : IVdpaOps, IDisposable
{
    private const byte StatusDriverOk = 4;
    private const byte StatusFeaturesOk = 8;
    private const byte StatusNeedsReset = 64;

    private readonly Lock _access = new();
    private readonly INicVirtioFunction _function;
    private readonly CallLine[] _calls;
    private readonly CallLine[] _errors;
    private Action? _configChanged;
    private Action<int, Fault>? _queueFaulted;

    internal VirtioFunctionOps(INicVirtioFunction function)
    {
        _function = function;
        DeviceId = Read32(WindowRegister.DeviceId);
        ConfigSize = (int)Read32(WindowRegister.ConfigSize);
        MaxQueueSize = (int)Read32(WindowRegister.MaxQueueSize);
        DeviceFeatures = Read32Selected(device_feature_select, 0, device_feature) | ((ulong)Read32Selected(device_feature_select, 1, device_feature) << 32);
        _calls = new CallLine[function.QueueCount];
        _errors = new CallLine[function.QueueCount];
        for (var i = 0; i < _calls.Length; i++)
        {
            _calls[i] = new CallLine(isShared: false);
            _errors[i] = new CallLine(isShared: true);
            function.SetQueueHandler(i, _calls[i].Signal);
        }
        function.SetEventHandler(OnEvent);
        SetVectors();
    }

    public uint DeviceId { get; }

    public uint VendorId => 0;

    public int QueueCount => _function.QueueCount;

    public int MaxQueueSize { get; }

    public ulong DeviceFeatures { get; }

    public ulong DriverFeatures
    {
        get
        {
            lock (_access)
                return Read32Selected(driver_feature_select, 0, driver_feature) | ((ulong)Read32Selected(driver_feature_select, 1, driver_feature) << 32);
        }
    }

    public int ConfigSize { get; }

    public uint ConfigGeneration => Read8(config_generation);

    public byte Status => Read8(device_status);

    public bool TrySetDriverFeatures(ulong features, out Fault fault)
    {
        lock (_access)
        {
            if ((Status & StatusFeaturesOk) != 0)
                return Refuse(Errno.EBUSY, "features are settled until a reset", out fault);
            if ((features & ~DeviceFeatures) != 0)
                return Refuse(Errno.EINVAL, "a feature was taken that the device does not offer", out fault);
            Write32(driver_feature_select, 0);
            Write32(driver_feature, (uint)features);
            Write32(driver_feature_select, 1);
            Write32(driver_feature, (uint)(features >> 32));
            return Done(out fault);
        }
    }

    public bool TryGetConfig(int offset, Span<byte> destination, out Fault fault)
    {
        if (offset < 0 || offset > ConfigSize || destination.Length > ConfigSize - offset)
            return Refuse(Errno.EINVAL, "the range leaves the configuration space", out fault);
        _function.Read(DeviceConfig + offset, destination);
        return Done(out fault);
    }

    public bool TrySetConfig(int offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (offset < 0 || offset > ConfigSize || source.Length > ConfigSize - offset)
            return Refuse(Errno.EINVAL, "the range leaves the configuration space", out fault);
        lock (_access)
        {
            _function.Write(DeviceConfig + offset, source);
            var errno = (Errno)Read32(ConfigError);
            return errno switch
            {
                Errno.None => Done(out fault),
                Errno.EROFS or Errno.EINVAL => Refuse(errno, "the field may not be written, or not with that value", out fault),
                _ => Refuse(errno, "the value can't be kept; look at the space and the rights of the runtime folder", out fault),
            };
        }
    }

    public void SetConfigCallback(Action? callback) => Volatile.Write(ref _configChanged, callback);

    public bool TrySetStatus(byte status, out Fault fault)
    {
        if (status == 0)
        {
            Reset();
            return Done(out fault);
        }
        lock (_access)
        {
            // DEVICE_NEEDS_RESET is the device's own bit (VIRTIO 1.2, 2.1.1).
            if ((Status & ~StatusNeedsReset & ~status) != 0)
                return Refuse(Errno.EINVAL, "a status bit was taken back without a reset", out fault);
            Write8(device_status, status);
            return (Status & status & StatusFeaturesOk) == (status & StatusFeaturesOk)
                ? Done(out fault)
                : Refuse(Errno.EINVAL, "the device does not take the features together", out fault);
        }
    }

    public void Reset()
    {
        lock (_access)
        {
            Quietly(() => Write8(device_status, 0));
            // A reset forgets the vectors; the eventfds behind them stay.
            SetVectors();
        }
    }

    public void BeginUse()
    {
        lock (_access)
        {
            Quietly(() => Write32(NextUser, 1));
            SetVectors();
        }
    }

    public void SetAddressSpace(IoAddressSpace? space)
    {
        lock (_access)
        {
            // Refused only when the adapter's DMA is the host's no more; then the function reaches nothing, as it should.
            Quietly(() => _function.TryAttach(space, out _));
        }
    }

    public bool TrySetQueueAddress(int queue, Iova descriptorArea, Iova driverArea, Iova deviceArea, out Fault fault)
    {
        lock (_access)
        {
            if (SelectAndTest(queue))
                return RefuseReady(out fault);
            Write64(queue_desc, descriptorArea.Value);
            Write64(queue_driver, driverArea.Value);
            Write64(queue_device, deviceArea.Value);
            return Done(out fault);
        }
    }

    public bool TrySetQueueSize(int queue, int size, out Fault fault)
    {
        lock (_access)
        {
            if (SelectAndTest(queue))
                return RefuseReady(out fault);
            if (size < 1 || size > MaxQueueSize || !int.IsPow2(size))
                return Refuse(Errno.EINVAL, "the queue size is no power of two within the device's limit", out fault);
            Write16(queue_size, (ushort)size);
            return Done(out fault);
        }
    }

    public bool TrySetQueueReady(int queue, bool ready, out Fault fault)
    {
        lock (_access)
        {
            if (SelectAndTest(queue) == ready)
                return Done(out fault);
            Quietly(() => Write16(queue_enable, ready ? (ushort)1 : (ushort)0));
            if (!ready || Read16(queue_enable) == 1)
                return Done(out fault);
            fault = SelectedFault();
            return false;
        }
    }

    public bool IsQueueReady(int queue)
    {
        lock (_access)
            return SelectAndTest(queue);
    }

    public bool TrySetQueueState(int queue, ushort nextAvailable, out Fault fault)
    {
        lock (_access)
        {
            if (SelectAndTest(queue))
                return RefuseReady(out fault);
            Write16(QueueState, nextAvailable);
            return Done(out fault);
        }
    }

    public ushort GetQueueState(int queue)
    {
        lock (_access)
        {
            Select(queue);
            return Read16(QueueState);
        }
    }

    public void SetQueueKick(int queue, EventFd? kick)
    {
        lock (_access)
        {
            Select(queue);
            // The queue stands still while its eventfd is exchanged. Without one, or when the hardware takes none, it looks by itself.
            Quietly(() =>
            {
                var wanted = _function.TryAttachNotify(queue, kick, out _) && kick is not null ? (ushort)0 : (ushort)1;
                if (Read16(QueuePoll) != wanted)
                    Write16(QueuePoll, wanted);
            });
        }
    }

    public void SetQueueCall(int queue, EventFd? call) => At(_calls, queue).Set(call);

    public void SetQueueError(int queue, EventFd? error) => At(_errors, queue).Set(error);

    public void KickQueue(int queue)
    {
        At(_calls, queue);
        _function.Notify(queue);
    }

    public void SetQueueFaultCallback(Action<int, Fault>? callback) => Volatile.Write(ref _queueFaulted, callback);

    public VirtQueueCounters GetQueueCounters(int queue)
    {
        lock (_access)
        {
            Select(queue);
            return new VirtQueueCounters(
                Read64(QueueRequests), Read64(QueueBytes), Read64(QueueErrors), Read64(QueueKicks), Read64(QueueCalls),
                Read64(QueueInPlace), Read64(QueueUring), Read64(QueueWorker));
        }
    }

    public void Dispose()
    {
        _function.SetEventHandler(null);
        lock (_access)
            Quietly(() => Write8(device_status, 0));
        _function.Dispose();
    }

    private static bool Refuse(Errno errno, string message, out Fault fault)
    {
        fault = new Fault(errno, message);
        return false;
    }

    private static bool RefuseReady(out Fault fault) => Refuse(Errno.EBUSY, "the queue is ready: stop it first", out fault);

    private static bool Done(out Fault fault)
    {
        fault = Fault.None;
        return true;
    }

    private static CallLine At(CallLine[] lines, int queue)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)queue, (uint)lines.Length, nameof(queue));
        return lines[queue];
    }

    // What waits for queues' threads, without their hanging in a call.
    private void Quietly(Action work)
    {
        foreach (var call in _calls)
            call.Mute();
        try
        {
            work();
        }
        finally
        {
            foreach (var call in _calls)
                call.Unmute();
        }
    }

    private void SetVectors()
    {
        for (var i = 0; i < _calls.Length; i++)
        {
            Select(i);
            Write16(queue_msix_vector, _function.GetVector(i));
        }
    }

    // On the thread of the adapter's events.
    private void OnEvent(int queue, Errno errno)
    {
        if ((uint)queue < (uint)_errors.Length)
        {
            Fault fault;
            lock (_access)
            {
                Select(queue);
                fault = SelectedFault();
            }
            // One that a reset took away meanwhile is none of whoever has the device now.
            if (fault != Fault.None)
                _errors[queue].Signal();
            Volatile.Read(ref _queueFaulted)?.Invoke(queue, fault == Fault.None ? new Fault(errno, "a ring error stopped the queue") : fault);
        }
        Volatile.Read(ref _configChanged)?.Invoke();
    }

    private void Select(int queue)
    {
        At(_calls, queue);
        Write16(queue_select, (ushort)queue);
    }

    private bool SelectAndTest(int queue)
    {
        Select(queue);
        return Read16(queue_enable) == 1;
    }

    private Fault SelectedFault()
    {
        var errno = (Errno)Read32(QueueError);
        if (errno == Errno.None)
            return Fault.None;
        Span<byte> text = stackalloc byte[ErrorTextSize];
        _function.Read(ErrorText, text);
        var length = text.IndexOf((byte)0);
        return new Fault(errno, Encoding.UTF8.GetString(text[..(length < 0 ? text.Length : length)]));
    }

    private uint Read32Selected(int selector, uint value, int offset)
    {
        Write32(selector, value);
        return Read32(offset);
    }

    private byte Read8(int offset)
    {
        Span<byte> bytes = stackalloc byte[1];
        _function.Read(offset, bytes);
        return bytes[0];
    }

    private ushort Read16(int offset)
    {
        Span<byte> bytes = stackalloc byte[2];
        _function.Read(offset, bytes);
        return BinaryPrimitives.ReadUInt16LittleEndian(bytes);
    }

    private uint Read32(int offset)
    {
        Span<byte> bytes = stackalloc byte[4];
        _function.Read(offset, bytes);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    private ulong Read64(int offset)
    {
        Span<byte> bytes = stackalloc byte[8];
        _function.Read(offset, bytes);
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    private void Write8(int offset, byte value) => _function.Write(offset, [value]);

    private void Write16(int offset, ushort value)
    {
        Span<byte> bytes = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        _function.Write(offset, bytes);
    }

    private void Write32(int offset, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        _function.Write(offset, bytes);
    }

    private void Write64(int offset, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        _function.Write(offset, bytes);
    }
}
