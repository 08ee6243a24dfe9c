using System.Buffers.Binary;
using System.Text;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// A virtio function inside of an adapter's function: a window in the register BAR with the registers of the standard
/// (<see cref="VirtioConfigRegisters"/>) and the adapter's own behind. Its DMA is that of one PASID.
/// </summary>
/// <remarks>Accesses come from any thread, one at a time. One that stops a queue returns when the queue's thread is done.</remarks>
internal sealed class VirtioWindow : IVirtioRegisterHost, IDisposable
{
    public const int DeviceConfig = 0x100;
    public const int ErrorText = 0x80;
    public const int ErrorTextSize = 96;
    public const int NextUser = 0xE0;
    public const int QueuePlace = 0xE4;

    private readonly Lock _access = new();
    private readonly AdapterWork _owner;
    private readonly IFunctionPort _port;
    private readonly int _vectors;
    private readonly VirtioDevice _device;
    private readonly DmaPort _dma;
    private readonly VirtioConfigRegisters _registers;
    private readonly EventFd?[] _kicks;
    private readonly bool[] _polls;
    private Errno _configError;
    private bool _disposed;

    internal VirtioWindow(AdapterWork owner, IFunctionPort port, int vectors, int index, VirtioDevice device, DmaPort dma)
    {
        _owner = owner;
        _port = port;
        _vectors = vectors;
        Index = index;
        _device = device;
        _dma = dma;
        _kicks = new EventFd?[device.QueueCount];
        _polls = new bool[device.QueueCount];
        for (var i = 0; i < _kicks.Length; i++)
            device.SetQueueKick(i, null, polls: false);
        device.Faults = port.Faults;
        _registers = new VirtioConfigRegisters(device, this);
        device.SetDma(dma);
    }

    /// <summary>Its number.</summary>
    internal int Index { get; }

    /// <summary>Which requests are its own.</summary>
    internal uint Pasid => _dma.Pasid!.Value;

    /// <summary>How many queues it has.</summary>
    internal int QueueCount => _kicks.Length;

    /// <summary>Whether a driver has begun to use it.</summary>
    internal bool IsInUse => _device.Status != 0;

    int IVirtioRegisterHost.VectorLimit => _vectors;

    void IVirtioRegisterHost.Raise(ushort vector) => _port.RaiseVector(vector);

    void IVirtioRegisterHost.Tell() => _owner.Schedule();

    internal void Read(int offset, Span<byte> destination)
    {
        destination.Clear();
        lock (_access)
        {
            if (_disposed)
                return;
            if (offset >= DeviceConfig)
            {
                _registers.ReadConfig(offset - DeviceConfig, destination);
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
        if ((uint)queue < (uint)_kicks.Length)
            _device.KickQueue(queue);
    }

    /// <summary>Lets signals of an eventfd stand for the notification; the queue's thread waits for them itself.</summary>
    internal void AttachNotify(int queue, EventFd? signal)
    {
        lock (_access)
        {
            if (_disposed)
                return;
            var old = _kicks[queue];
            var next = signal?.Duplicate();
            _kicks[queue] = next;
            _device.SetQueueKick(queue, next, _polls[queue]);
            old?.Dispose();
        }
    }

    /// <summary>A fault that the driver was not told of; on the lane's thread.</summary>
    internal bool TryTakeFault(out int queue, out Errno errno) => _registers.TryTakeFault(out queue, out errno);

    /// <summary>Whether the driver has to be told that the configuration changed; on the lane's thread.</summary>
    internal bool TakeConfigChange() => _registers.TakeConfigChange();

    public void Dispose()
    {
        lock (_access)
        {
            if (_disposed)
                return;
            _disposed = true;
            _device.Dispose();
            foreach (var kick in _kicks)
                kick?.Dispose();
        }
    }

    private void Build(Span<byte> r)
    {
        r.Clear();
        _registers.Read(r);
        BinaryPrimitives.WriteUInt32LittleEndian(r[0x40..], _device.DeviceId);
        BinaryPrimitives.WriteUInt32LittleEndian(r[0x44..], (uint)_device.ConfigSize);
        BinaryPrimitives.WriteUInt32LittleEndian(r[0x78..], (uint)_device.MaxQueueSize);
        BinaryPrimitives.WriteUInt32LittleEndian(r[0x7C..], (uint)_configError);
        var queue = _registers.SelectedQueue;
        if (queue < 0)
            return;
        var state = _device.GetQueueState(queue);
        BinaryPrimitives.WriteUInt16LittleEndian(r[0x48..], state.NextAvailable);
        BinaryPrimitives.WriteUInt32LittleEndian(r[QueuePlace..], state.Encode());
        BinaryPrimitives.WriteUInt16LittleEndian(r[0x4A..], _polls[queue] ? (ushort)1 : (ushort)0);
        var fault = _registers.FaultOf(queue);
        if (fault != Fault.None)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(r[0x4C..], (uint)fault.Errno);
            var text = fault.Message ?? "";
            Encoding.UTF8.TryGetBytes(text.AsSpan(0, Math.Min(text.Length, ErrorTextSize)), r.Slice(ErrorText, ErrorTextSize), out _);
        }
        var counters = _device.GetQueueCounters(queue);
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
        var queue = _registers.SelectedQueue;
        switch (offset, size)
        {
            case (VirtioCommonConfig.device_status, 1) when value == 0:
                Reset();
                break;
            case (NextUser, 4):
                Reset();
                _device.BeginUse();
                break;
            case (0x48, 2) when queue >= 0:
                _device.TrySetQueueState(queue, QueueState.Split((ushort)value), out _);
                break;
            case (QueuePlace, 4) when queue >= 0:
                if (QueueState.TryDecode((uint)value, _device.DriverFeatures.Has(VirtioFeatures.VIRTIO_F_RING_PACKED), out var state, out _))
                    _device.TrySetQueueState(queue, state, out _);
                break;
            case (0x4A, 2) when queue >= 0:
                _polls[queue] = value == 1;
                _device.SetQueueKick(queue, _kicks[queue], _polls[queue]);
                break;
            default:
                _registers.Write(offset, size, value);
                break;
        }
    }

    private void Reset()
    {
        _registers.Reset();
        _configError = Errno.None;
    }
}
