using System.Buffers.Binary;
using System.Text;
using Virtbus.Hardware.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// A virtio function inside of an adapter's function: its registers are a window in the register BAR, laid out as struct
/// virtio_pci_common_cfg (VIRTIO 1.2, 4.1.4.3) with the adapter's own registers behind. Its DMA is that of one PASID.
/// </summary>
/// <remarks>Accesses come from any thread, one at a time. One that stops a queue returns when the queue's thread is done.</remarks>
internal sealed class VirtioWindow : IDisposable
{
    public const int DeviceConfig = 0x100;
    public const int ErrorText = 0x80;
    public const int ErrorTextSize = 96;
    public const int NextUser = 0xE0;
    private const ushort NoVector = 0xFFFF;

    private readonly Lock _access = new();
    private readonly FunctionUnit _unit;
    private readonly VirtioDevice _device;
    private readonly DmaPort _dma;
    private readonly Queue[] _queues;
    private uint _deviceFeatureSelect;
    private uint _driverFeatureSelect;
    private ulong _driverFeatures;
    private ushort _configVector = NoVector;
    private ushort _queueSelect;
    private Errno _configError;
    private bool _disposed;
    private volatile bool _configUntold;

    internal VirtioWindow(FunctionUnit unit, int index, VirtioDevice device, DmaPort dma)
    {
        _unit = unit;
        Index = index;
        _device = device;
        _dma = dma;
        _queues = new Queue[device.QueueCount];
        for (var i = 0; i < _queues.Length; i++)
        {
            var queue = _queues[i] = new Queue();
            device.SetQueueKick(i, null, polls: false);
            device.SetQueueInterrupt(i, () => Raise(queue.Vector));
        }
        device.SetQueueFaultCallback(OnFault);
        device.SetConfigCallback(OnConfigChange);
        dma.SetChangeCallback(OnMapChange);
        OnMapChange();
    }

    /// <summary>Its number.</summary>
    internal int Index { get; }

    /// <summary>Which requests are its own.</summary>
    internal uint Pasid => _dma.Pasid!.Value;

    /// <summary>How many queues it has.</summary>
    internal int QueueCount => _queues.Length;

    /// <summary>Whether a driver has begun to use it.</summary>
    internal bool IsInUse => _device.Status != 0;

    internal void Read(int offset, Span<byte> destination)
    {
        destination.Clear();
        lock (_access)
        {
            if (_disposed)
                return;
            if (offset >= DeviceConfig)
            {
                ReadConfig(offset - DeviceConfig, destination);
                return;
            }
            Span<byte> registers = stackalloc byte[DeviceConfig];
            Build(registers);
            registers[offset..][..Math.Min(destination.Length, DeviceConfig - offset)].CopyTo(destination);
        }
    }

    internal void Write(int offset, ReadOnlySpan<byte> source)
    {
        lock (_access)
        {
            if (_disposed)
                return;
            if (offset >= DeviceConfig)
            {
                _device.TrySetConfig(offset - DeviceConfig, source, out var fault);
                _configError = fault.Errno;
                return;
            }
            if (source.Length is not (1 or 2 or 4 or 8))
                return;
            Span<byte> value = stackalloc byte[8];
            value.Clear();
            source.CopyTo(value);
            Write(offset, source.Length, BinaryPrimitives.ReadUInt64LittleEndian(value));
        }
    }

    /// <summary>The driver made buffers available.</summary>
    internal void Notify(int queue)
    {
        if ((uint)queue < (uint)_queues.Length)
            _device.KickQueue(queue);
    }

    /// <summary>Lets signals of an eventfd stand for the notification; the queue's thread waits for them itself.</summary>
    internal void AttachNotify(int queue, EventFd? signal)
    {
        lock (_access)
        {
            if (_disposed)
                return;
            var old = _queues[queue].Kick;
            var next = signal?.Duplicate();
            _queues[queue].Kick = next;
            _device.SetQueueKick(queue, next, _queues[queue].Polls);
            old?.Dispose();
        }
    }

    /// <summary>A fault that the driver was not told of; on the lane's thread.</summary>
    internal bool TryTakeFault(out int queue, out Errno errno)
    {
        for (queue = 0; queue < _queues.Length; queue++)
        {
            if (Interlocked.Exchange(ref _queues[queue].FaultUntold, 0) == 0)
                continue;
            errno = Volatile.Read(ref _queues[queue].Fault)?.Value.Errno ?? Errno.EIO;
            return true;
        }
        errno = Errno.None;
        return false;
    }

    /// <summary>Whether the driver has to be told that the configuration changed; on the lane's thread.</summary>
    internal bool TakeConfigChange()
    {
        var changed = _configUntold;
        _configUntold = false;
        return changed;
    }

    public void Dispose()
    {
        lock (_access)
        {
            if (_disposed)
                return;
            _disposed = true;
            _dma.SetChangeCallback(null);
            _device.Dispose();
            foreach (var queue in _queues)
                queue.Kick?.Dispose();
        }
    }

    private Queue? Selected => _queueSelect < _queues.Length ? _queues[_queueSelect] : null;

    private void ReadConfig(int offset, Span<byte> destination)
    {
        var length = Math.Min(destination.Length, _device.ConfigSize - offset);
        if (length > 0)
            _device.TryGetConfig(offset, destination[..length], out _);
    }

    private void Build(Span<byte> r)
    {
        r.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(r, _deviceFeatureSelect);
        BinaryPrimitives.WriteUInt32LittleEndian(r[4..], Half(_device.DeviceFeatures, _deviceFeatureSelect));
        BinaryPrimitives.WriteUInt32LittleEndian(r[8..], _driverFeatureSelect);
        BinaryPrimitives.WriteUInt32LittleEndian(r[12..], Half(_driverFeatures, _driverFeatureSelect));
        BinaryPrimitives.WriteUInt16LittleEndian(r[16..], _configVector);
        BinaryPrimitives.WriteUInt16LittleEndian(r[18..], (ushort)_queues.Length);
        r[20] = _device.Status;
        r[21] = (byte)_device.ConfigGeneration;
        BinaryPrimitives.WriteUInt16LittleEndian(r[22..], _queueSelect);
        BinaryPrimitives.WriteUInt32LittleEndian(r[0x40..], _device.DeviceId);
        BinaryPrimitives.WriteUInt32LittleEndian(r[0x44..], (uint)_device.ConfigSize);
        BinaryPrimitives.WriteUInt32LittleEndian(r[0x78..], (uint)_device.MaxQueueSize);
        BinaryPrimitives.WriteUInt32LittleEndian(r[0x7C..], (uint)_configError);
        if (Selected is not { } queue)
            return;
        BinaryPrimitives.WriteUInt16LittleEndian(r[24..], queue.Size == 0 ? (ushort)_device.MaxQueueSize : queue.Size);
        BinaryPrimitives.WriteUInt16LittleEndian(r[26..], queue.Vector);
        BinaryPrimitives.WriteUInt16LittleEndian(r[28..], _device.IsQueueReady(_queueSelect) ? (ushort)1 : (ushort)0);
        BinaryPrimitives.WriteUInt16LittleEndian(r[30..], _queueSelect);
        BinaryPrimitives.WriteUInt64LittleEndian(r[32..], queue.Descriptors);
        BinaryPrimitives.WriteUInt64LittleEndian(r[40..], queue.Driver);
        BinaryPrimitives.WriteUInt64LittleEndian(r[48..], queue.Device);
        BinaryPrimitives.WriteUInt16LittleEndian(r[56..], _queueSelect);
        BinaryPrimitives.WriteUInt16LittleEndian(r[0x48..], _device.GetQueueState(_queueSelect));
        BinaryPrimitives.WriteUInt16LittleEndian(r[0x4A..], queue.Polls ? (ushort)1 : (ushort)0);
        if (Volatile.Read(ref queue.Fault) is { Value: var fault })
        {
            BinaryPrimitives.WriteUInt32LittleEndian(r[0x4C..], (uint)fault.Errno);
            var text = fault.Message ?? "";
            Encoding.UTF8.TryGetBytes(text.AsSpan(0, Math.Min(text.Length, ErrorTextSize)), r.Slice(ErrorText, ErrorTextSize), out _);
        }
        var counters = _device.GetQueueCounters(_queueSelect);
        BinaryPrimitives.WriteUInt64LittleEndian(r[0x50..], counters.Requests);
        BinaryPrimitives.WriteUInt64LittleEndian(r[0x58..], counters.Bytes);
        BinaryPrimitives.WriteUInt64LittleEndian(r[0x60..], counters.Errors);
        BinaryPrimitives.WriteUInt64LittleEndian(r[0x68..], counters.Kicks);
        BinaryPrimitives.WriteUInt64LittleEndian(r[0x70..], counters.Calls);
        BinaryPrimitives.WriteUInt64LittleEndian(r[0xE8..], counters.InPlace);
        BinaryPrimitives.WriteUInt64LittleEndian(r[0xF0..], counters.Uring);
        BinaryPrimitives.WriteUInt64LittleEndian(r[0xF8..], counters.Worker);
    }

    private void Write(int offset, int size, ulong value)
    {
        switch (offset, size)
        {
            case (0, 4):
                _deviceFeatureSelect = (uint)value;
                break;
            case (8, 4):
                _driverFeatureSelect = (uint)value;
                break;
            case (12, 4):
                if (_driverFeatureSelect < 2 && (_device.Status & VirtioStatus.FEATURES_OK) == 0)
                    SetHalf(ref _driverFeatures, _driverFeatureSelect == 1, (uint)value);
                break;
            case (16, 2):
                _configVector = Vector((ushort)value);
                break;
            case (20, 1):
                SetStatus((byte)value);
                break;
            case (22, 2):
                _queueSelect = (ushort)value;
                break;
            case (NextUser, 4):
                Reset();
                _device.BeginUse();
                break;
            default:
                if (Selected is { } queue)
                    Write(queue, offset, size, value);
                break;
        }
    }

    private void Write(Queue queue, int offset, int size, ulong value)
    {
        switch (offset, size)
        {
            case (24, 2) when !_device.IsQueueReady(_queueSelect):
                queue.Size = (ushort)value;
                break;
            case (26, 2):
                queue.Vector = Vector((ushort)value);
                break;
            case (28, 2):
                SetReady(queue, value == 1);
                break;
            case (32 or 40 or 48, 8):
                Area(queue, offset) = value;
                break;
            case (32 or 40 or 48 or 36 or 44 or 52, 4):
                SetHalf(ref Area(queue, offset & ~4), (offset & 4) != 0, (uint)value);
                break;
            case (0x3A, 2) when value == 1:
                SetReady(queue, false);
                break;
            case (0x48, 2):
                _device.TrySetQueueState(_queueSelect, (ushort)value, out _);
                break;
            case (0x4A, 2):
                queue.Polls = value == 1;
                _device.SetQueueKick(_queueSelect, queue.Kick, queue.Polls);
                break;
        }
    }

    private static ref ulong Area(Queue queue, int offset)
    {
        if (offset == 32)
            return ref queue.Descriptors;
        if (offset == 40)
            return ref queue.Driver;
        return ref queue.Device;
    }

    private void SetReady(Queue queue, bool ready)
    {
        Volatile.Write(ref queue.Fault, null);
        var done = !ready
            ? _device.TrySetQueueReady(_queueSelect, false, out var fault)
            : _device.IsQueueReady(_queueSelect) | (_device.TrySetQueueSize(_queueSelect, queue.Size == 0 ? _device.MaxQueueSize : queue.Size, out fault)
                && _device.TrySetQueueAddress(_queueSelect, new Iova(queue.Descriptors), new Iova(queue.Driver), new Iova(queue.Device), out fault)
                && _device.TrySetQueueReady(_queueSelect, true, out fault));
        if (!done)
            Volatile.Write(ref queue.Fault, new FaultBox(fault));
    }

    private void SetStatus(byte status)
    {
        if (status == 0)
        {
            Reset();
            return;
        }
        // Features that are not offered are refused by not taking FEATURES_OK (3.1.1).
        if ((status & ~_device.Status & VirtioStatus.FEATURES_OK) != 0 && !_device.TrySetDriverFeatures(_driverFeatures, out _))
            status &= unchecked((byte)~VirtioStatus.FEATURES_OK);
        _device.TrySetStatus(status, out _);
    }

    private void Reset()
    {
        _device.Reset();
        _driverFeatures = 0;
        _deviceFeatureSelect = _driverFeatureSelect = 0;
        _configError = Errno.None;
        _configVector = NoVector;
        _queueSelect = 0;
        foreach (var queue in _queues)
        {
            queue.Size = 0;
            queue.Vector = NoVector;
            queue.Descriptors = queue.Driver = queue.Device = 0;
            queue.Fault = null;
            // What went wrong before is no news to whoever comes after.
            Interlocked.Exchange(ref queue.FaultUntold, 0);
        }
        _configUntold = false;
    }

    private ushort Vector(ushort wanted) => wanted < _unit.Limits.Vectors ? wanted : NoVector;

    private void Raise(ushort vector)
    {
        if (vector != NoVector)
            _unit.Slot.RaiseVector(vector);
    }

    // On the queue's thread, which somebody who has the lock may wait for.
    private void OnFault(int queue, Fault fault)
    {
        Volatile.Write(ref _queues[queue].Fault, new FaultBox(fault));
        Interlocked.Exchange(ref _queues[queue].FaultUntold, 1);
        _unit.TellVirtio();
    }

    private void OnConfigChange()
    {
        _configUntold = true;
        _unit.TellVirtio();
        Raise(Volatile.Read(ref _configVector));
    }

    // Who changed the map waits for this to return; nothing uses the old one then.
    private void OnMapChange()
    {
        lock (_access)
        {
            if (_disposed)
                return;
            using var map = _dma.Snapshot();
            _device.SetMap(map);
        }
    }

    private static uint Half(ulong value, uint select) => select switch
    {
        0 => (uint)value,
        1 => (uint)(value >> 32),
        _ => 0,
    };

    private static void SetHalf(ref ulong target, bool high, uint value) =>
        target = high ? (target & uint.MaxValue) | ((ulong)value << 32) : (target & ~(ulong)uint.MaxValue) | value;

    /// <summary>A fault as an object, so that it is replaced at once.</summary>
    private sealed record FaultBox(Fault Value);

    private sealed class Queue
    {
        public ushort Size;
        public volatile ushort Vector = NoVector;
        public ulong Descriptors;
        public ulong Driver;
        public ulong Device;
        public bool Polls;
        public EventFd? Kick;
        public FaultBox? Fault;
        public int FaultUntold;
    }
}
