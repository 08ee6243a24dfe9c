using System.Text;
using Virtbus.Buses.Vdpa;
using Virtbus.Drivers.Nic;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Drivers.NicVdpa.WindowRegister;

namespace Virtbus.Drivers.NicVdpa;

/// <summary>
/// A virtio function of an adapter as the operations of a vDPA device: what the standard has goes by its registers
/// (<see cref="VirtioRegisterTransport"/>), the rest by the adapter's own. The function serves its queues itself: a kick goes to it by the
/// user's eventfd, its interrupts come as signals of the user's.
/// </summary>
internal sealed class VirtioFunctionOps : IVdpaOps, IDisposable
{
    private readonly Lock _access = new();
    private readonly INicVirtioFunction _function;
    private readonly WindowAccess _registers;
    private readonly VirtioRegisterTransport _transport;
    private readonly SignalLine[] _calls;
    private readonly SignalLine[] _errors;
    private Action? _configChanged;
    private Action<int, Fault>? _queueFaulted;

    internal VirtioFunctionOps(INicVirtioFunction function)
    {
        _function = function;
        _registers = new WindowAccess(function);
        DeviceId = _registers.ReadUInt32(WindowRegister.DeviceId);
        ConfigSize = (int)_registers.ReadUInt32(WindowRegister.ConfigSize);
        MaxQueueSize = (int)_registers.ReadUInt32(WindowRegister.MaxQueueSize);
        _transport = new VirtioRegisterTransport(_registers);
        _calls = new SignalLine[function.QueueCount];
        _errors = new SignalLine[function.QueueCount];
        for (var i = 0; i < _calls.Length; i++)
        {
            _calls[i] = new SignalLine(isShared: false);
            _errors[i] = new SignalLine(isShared: true);
            function.SetQueueSignal(i, _calls[i]);
        }
        function.SetEventHandler(OnEvent);
        SetVectors();
    }

    public uint DeviceId { get; }

    public uint VendorId => 0;

    public int QueueCount => _function.QueueCount;

    public int MaxQueueSize { get; }

    public ulong DeviceFeatures => _transport.DeviceFeatures.Low;

    public ulong DriverFeatures
    {
        get
        {
            lock (_access)
                return _transport.DriverFeatures.Low;
        }
    }

    public int ConfigSize { get; }

    public uint ConfigGeneration => _transport.ConfigGeneration;

    public byte Status => _transport.Status;

    public bool TrySetDriverFeatures(ulong features, out Fault fault)
    {
        lock (_access)
            return _transport.TrySetDriverFeatures(new VirtioFeatures(features), out fault);
    }

    public bool TryGetConfig(int offset, Span<byte> destination, out Fault fault)
    {
        if (offset < 0 || offset > ConfigSize || destination.Length > ConfigSize - offset)
            return Refuse(Errno.EINVAL, "the range leaves the configuration space", out fault);
        return _transport.TryReadConfig(offset, destination, out fault);
    }

    public bool TrySetConfig(int offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (offset < 0 || offset > ConfigSize || source.Length > ConfigSize - offset)
            return Refuse(Errno.EINVAL, "the range leaves the configuration space", out fault);
        lock (_access)
        {
            _transport.WriteConfig(offset, source);
            var errno = (Errno)_registers.ReadUInt32(ConfigError);
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
            return _transport.TrySetStatus(status, out fault);
    }

    public void Reset()
    {
        lock (_access)
        {
            Quietly(() => _transport.TryReset(out _));
            // A reset forgets the vectors; the eventfds behind them stay.
            SetVectors();
        }
    }

    public void BeginUse()
    {
        lock (_access)
        {
            Quietly(() => _registers.WriteUInt32(NextUser, 1));
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
            _transport.SetQueueAddress(descriptorArea, driverArea, deviceArea);
            return Done(out fault);
        }
    }

    public bool TrySetQueueSize(int queue, int size, out Fault fault)
    {
        lock (_access)
        {
            if (SelectAndTest(queue))
                return RefuseReady(out fault);
            if (size < 1 || size > MaxQueueSize || !(int.IsPow2(size) || IsPacked))
                return Refuse(Errno.EINVAL, "the queue size is no power of two within the device's limit", out fault);
            _transport.SetQueueSize(size);
            return Done(out fault);
        }
    }

    public bool TrySetQueueReady(int queue, bool ready, out Fault fault)
    {
        lock (_access)
        {
            if (SelectAndTest(queue) == ready)
                return Done(out fault);
            Quietly(() =>
            {
                if (ready)
                    _transport.TryEnable();
                else
                    _registers.WriteUInt16(QueueStop, 0);
            });
            if (!ready || _transport.IsEnabled)
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

    public bool TrySetQueueState(int queue, QueueState state, out Fault fault)
    {
        lock (_access)
        {
            if (SelectAndTest(queue))
                return RefuseReady(out fault);
            if (state == default)
                state = QueueState.Beginning(IsPacked);
            if (state.IsPacked != IsPacked)
                return Refuse(Errno.EINVAL, "the queue's state is that of a ring of the other format", out fault);
            _registers.WriteUInt32(QueuePlace, state.Encode());
            return Done(out fault);
        }
    }

    public QueueState GetQueueState(int queue)
    {
        lock (_access)
        {
            Select(queue);
            QueueState.TryDecode(_registers.ReadUInt32(QueuePlace), IsPacked, out var state, out _);
            return state;
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
                if (_registers.ReadUInt16(QueuePoll) != wanted)
                    _registers.WriteUInt16(QueuePoll, wanted);
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

    public QueueCounters GetQueueCounters(int queue)
    {
        lock (_access)
        {
            Select(queue);
            return new QueueCounters(
                _registers.ReadUInt64(QueueRequests), _registers.ReadUInt64(QueueBytes), _registers.ReadUInt64(QueueErrors),
                _registers.ReadUInt64(QueueKicks), _registers.ReadUInt64(QueueCalls),
                _registers.ReadUInt64(QueueInPlace), _registers.ReadUInt64(QueueUring), _registers.ReadUInt64(QueueWorker));
        }
    }

    public void Dispose()
    {
        _function.SetEventHandler(null);
        lock (_access)
            Quietly(() => _transport.TryReset(out _));
        _function.Dispose();
    }

    private bool IsPacked => _transport.DriverFeatures.Has(VirtioFeatures.VIRTIO_F_RING_PACKED);

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

    private static SignalLine At(SignalLine[] lines, int queue)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)queue, (uint)lines.Length, nameof(queue));
        return lines[queue];
    }

    // What waits for queues' threads, without their hanging in a call.
    private void Quietly(Action work)
    {
        using (new VdpaQuiet(_calls))
            work();
    }

    private void SetVectors()
    {
        for (var i = 0; i < _calls.Length; i++)
        {
            Select(i);
            _transport.TrySetQueueVector(_function.GetVector(i));
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
        _transport.Select(queue);
    }

    private bool SelectAndTest(int queue)
    {
        Select(queue);
        return _transport.IsEnabled;
    }

    private Fault SelectedFault()
    {
        var errno = (Errno)_registers.ReadUInt32(QueueError);
        if (errno == Errno.None)
            return Fault.None;
        Span<byte> text = stackalloc byte[ErrorTextSize];
        _function.Read(ErrorText, text);
        var length = text.IndexOf((byte)0);
        return new Fault(errno, Encoding.UTF8.GetString(text[..(length < 0 ? text.Length : length)]));
    }

    private sealed class WindowAccess(INicVirtioFunction function) : IVirtioRegisterAccess
    {
        public void Read(int offset, Span<byte> destination) => function.Read(offset, destination);

        public void Write(int offset, ReadOnlySpan<byte> source) => function.Write(offset, source);

        public void ReadConfig(int offset, Span<byte> destination) => function.Read(DeviceConfig + offset, destination);

        public void WriteConfig(int offset, ReadOnlySpan<byte> source) => function.Write(DeviceConfig + offset, source);
    }
}
