using Microsoft.Extensions.Logging;
using Virtbus.Buses.Pci;
using Virtbus.Drivers.Nic;
using Virtbus.Platform;

namespace Virtbus.Drivers.MerlinVfioPci;

/// <summary>
/// Brings the two halves together: virtual functions on the PCI bus, and channels of physical functions on the virtual bus, in whichever order
/// they come and go. Any thread.
/// </summary>
internal sealed class MerlinPairs(ILogger log)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<PciDevice, INicMigration> _channels = [];
    private readonly List<MerlinVfioFunction> _functions = [];

    /// <summary>A virtual function was bound.</summary>
    public ValueTask AddAsync(MerlinVfioFunction function)
    {
        lock (_lock)
        {
            _functions.Add(function);
            function.Channel = _channels.GetValueOrDefault(function.PhysicalFunction);
        }
        if (function.Channel is null)
            MerlinVfioLog.Waits(log, function.Device.Name, function.PhysicalFunction.Name);
        return function.SettleAsync();
    }

    /// <summary>A virtual function is unbound.</summary>
    public ValueTask RemoveAsync(MerlinVfioFunction function)
    {
        lock (_lock)
        {
            _functions.Remove(function);
            function.Channel = null;
        }
        return function.SettleAsync();
    }

    /// <summary>A channel was bound: functions that waited for it appear.</summary>
    public async ValueTask AddAsync(PciDevice physicalFunction, INicMigration channel)
    {
        foreach (var function in Change(physicalFunction, channel))
        {
            try
            {
                await function.SettleAsync();
            }
            catch (VirtbusException e)
            {
                // It leaves just now, or has no place; the channel serves the others.
                MerlinVfioLog.NotRegistered(log, function.Device.Name, e.Message);
            }
        }
    }

    /// <summary>A channel is unbound: the functions that it served go first, all of their users asked at once.</summary>
    public async ValueTask RemoveAsync(PciDevice physicalFunction, bool isGone)
    {
        var functions = Change(physicalFunction, null);
        // Nobody can stop or save them any more, and nobody is asked by hardware that is not there.
        if (isGone)
            functions.ForEach(f => f.Registered?.Revoke());
        await Task.WhenAll(functions.Select(f => f.SettleAsync().AsTask()));
    }

    private List<MerlinVfioFunction> Change(PciDevice physicalFunction, INicMigration? channel)
    {
        lock (_lock)
        {
            if (channel is null)
                _channels.Remove(physicalFunction);
            else
                _channels[physicalFunction] = channel;
            var functions = _functions.FindAll(f => f.PhysicalFunction == physicalFunction);
            functions.ForEach(f => f.Channel = channel);
            return functions;
        }
    }
}
