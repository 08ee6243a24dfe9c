using Virtbus.Core;
using Virtbus.Memory.Dma;

namespace Virtbus.Buses.Pci;

/// <summary>Tells of a device's DMA faults by events: a few at most in a second, however many come.</summary>
internal sealed class DmaFaultEvents(PciDevice device, DmaPort port)
{
    private const int EventsPerSecond = 4;

    private readonly Lock _lock = new();
    private long _second;
    private int _events;

    public void Add(DmaFault fault)
    {
        // The group tells of every function's.
        if (!fault.Port.IsOf(port) || device.Fabric is not { } fabric)
            return;
        lock (_lock)
        {
            var second = fabric.Time.GetTimestamp() / fabric.Time.TimestampFrequency;
            if (second != _second)
                (_second, _events) = (second, 0);
            if (++_events > EventsPerSecond)
                return;
        }
        var count = port.Faults;
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
