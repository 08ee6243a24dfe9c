using Virtbus.Buses.Pci;
using Virtbus.Drivers.Nic;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Drivers.NicRings;

/// <summary>A virtio window of an adapter.</summary>
internal sealed class NicVirtioFunction : INicVirtioFunction
{
    private const int WindowBase = 0x8000;
    private const int WindowSize = 0x1000;
    private const int NotifyStride = 4;
    private const int StatusOffset = 20;

    private readonly NicCore _core;
    private readonly NicRegisters _registers;
    private readonly uint _pasid;
    private readonly PciVector[] _vectors;
    private Action<int, Errno>? _handler;
    private int _disposed;

    internal NicVirtioFunction(NicCore core, NicRegisters registers, string user, int window, uint pasid, PciVector[] vectors)
    {
        _core = core;
        _registers = registers;
        _pasid = pasid;
        _vectors = vectors;
        User = user;
        Window = window;
    }

    public int QueueCount => _vectors.Length;

    /// <summary>Whom its queue sets are for.</summary>
    internal string User { get; }

    internal int Window { get; }

    internal uint Pasid => _pasid;

    internal PciVector[] Vectors => _vectors;

    private ulong Start => (ulong)(WindowBase + (Window * WindowSize));

    private DmaPort Port => _registers.Device.Dma.ForPasid(_pasid);

    public void Read(int offset, Span<byte> destination)
    {
        if (Volatile.Read(ref _disposed) == 0)
            _registers.Region.Read(Start + (ulong)offset, destination);
        else
            destination.Fill(0xFF);
    }

    public void Write(int offset, ReadOnlySpan<byte> source)
    {
        if (Volatile.Read(ref _disposed) == 0)
            _registers.Region.Write(Start + (ulong)offset, source);
    }

    public void Notify(int queue)
    {
        if (Volatile.Read(ref _disposed) == 0)
            _registers.Doorbells.Write32(Start + (ulong)(queue * NotifyStride), (uint)queue);
    }

    public bool TryAttachNotify(int queue, EventFd? signal, out Fault fault)
    {
        fault = Fault.None;
        return Volatile.Read(ref _disposed) != 0 || _registers.Device.TryAttachDoorbell(
            new PciDoorbell(NicRegisters.DoorbellBar, Start + (ulong)(queue * NotifyStride), NotifyStride), signal, out fault);
    }

    public ushort GetVector(int queue) => (ushort)_vectors[queue].Index;

    public void SetQueueSignal(int queue, SignalLine signal) => _vectors[queue].SetSignal(signal);

    public void SetEventHandler(Action<int, Errno>? handler) => Volatile.Write(ref _handler, handler);

    public bool TryAttach(IoAddressSpace? space, out Fault fault) => Port.Group.TryAttachPasid(Port, space, out fault);

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        // Its queues stop here, on this thread; then the adapter can take it out at once.
        _registers.Region.Write(Start + StatusOffset, [0]);
        _core.Free(this);
    }

    internal void Tell(int queue, Errno errno) => Volatile.Read(ref _handler)?.Invoke(queue, errno);
}
