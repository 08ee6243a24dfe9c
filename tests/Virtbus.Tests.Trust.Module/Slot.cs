using Virtbus.Buses.Pci;
using Virtbus.Hardware.Probe;

namespace Virtbus.Tests.Trust.Module;

/// <summary>A place with a scratch function in it, or with none.</summary>
internal sealed class Slot(PciBus bus)
{
    private ScratchFunction? _function;
    private PciDevice? _device;

    /// <summary>The device's address; empty when the slot is.</summary>
    public string Address => Volatile.Read(ref _device)?.Name ?? "";

    public async ValueTask PutInAsync()
    {
        _function = new ScratchFunction(name: "trust-scratch");
        Volatile.Write(ref _device, await bus.PlugAsync(_function, prepare: device =>
        {
            bus.Fabric!.SetDriverOverride(device, "vfio-pci");
            return default;
        }));
    }

    /// <summary>Takes the function out, in order or by surprise.</summary>
    public async ValueTask TakeOutAsync(bool isSurprise)
    {
        // By a remove and a rescan it is another device than the first one.
        if (isSurprise && _device is { } first && bus.Find(first.Address) is { } device)
            await bus.SurpriseRemoveAsync(device);
        if (_function is { } function)
            await bus.UnplugAsync(function);
        Dispose();
    }

    /// <summary>The function breaks; the bus hears of it from the function itself.</summary>
    public async ValueTask BreakAsync()
    {
        _function!.Break();
        await TakeOutAsync(isSurprise: true);
    }

    private void Dispose()
    {
        Volatile.Write(ref _device, null);
        _function?.Dispose();
        _function = null;
    }
}
