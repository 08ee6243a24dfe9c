using Virtbus.Core;
using Virtbus.Memory.Dma;

namespace Virtbus.Buses.Pci;

/// <summary>The DMA faults of a device: the last one, and events about them, a few at most in a second however many come.</summary>
internal sealed class DmaFaultReport(PciDevice device)
{
    private const int EventsPerSecond = 4;

    private readonly Lock _lock = new();
    private long _second;
    private int _events;
    private long _count;
    private DmaFault? _last;

    public long Count => Interlocked.Read(ref _count);

    /// <summary>The last fault in words; empty when there was none.</summary>
    public string Last
    {
        get
        {
            lock (_lock)
            {
                return _last is not { } fault
                    ? ""
                    : $"0x{fault.Address.Value:x} {fault.Access} {fault.Fault.Errno}{(fault.Port.Pasid is { } pasid ? $" pasid {pasid}" : "")}";
            }
        }
    }

    public void Add(DmaFault fault)
    {
        var count = Interlocked.Increment(ref _count);
        if (device.Fabric is not { } fabric)
            return;
        lock (_lock)
        {
            _last = fault;
            var second = fabric.Time.GetTimestamp() / fabric.Time.TimestampFrequency;
            if (second != _second)
                (_second, _events) = (second, 0);
            if (++_events > EventsPerSecond)
                return;
        }
        PciLog.DmaFault(device.PciBus.Log, device.Name, fault.Address.Value, fault.Fault.Message, count);
        fabric.EmitUevent(
            device,
            UeventAction.Change,
            new("DMA_FAULT", $"0x{fault.Address.Value:x}"),
            new("DMA_FAULT_ACCESS", $"{fault.Access}"),
            new("DMA_FAULT_REASON", $"{fault.Fault.Errno}"),
            new("DMA_FAULTS", $"{count}"));
    }
}
