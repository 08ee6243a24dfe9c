using System.Collections.Concurrent;
using Virtbus.Buses.Pci;
using Virtbus.Provisioning;

namespace Virtbus.Drivers.NicRings;

/// <summary>The virtual functions of an adapter, whose addresses and queue sets its channel is told.</summary>
internal sealed class NicVirtualFunctions : VirtualFunctionProvider
{
    private static readonly ProfileField<ulong> Mac = ProfileFields.Mac("mac");
    private static readonly ProfileField<int> Queues = ProfileFields.Number("queues", "queue sets", 1, 16);

    private readonly NicCore _core;
    // What the hardware makes them when nothing is said, as far as it was asked.
    private readonly ConcurrentDictionary<int, NicVfSettings> _defaults = new();

    internal NicVirtualFunctions(NicCore core, PciDevice device)
        : base(device, Mac, Queues)
    {
        _core = core;
        Start();
    }

    public override string? DescribeStandard(FunctionProfile profile, ProfileField field)
    {
        if ((field != Mac && field != Queues) || !profile.TryGet(Index, out var index) || !profile.IsSet(Index))
            return base.DescribeStandard(profile, field);
        // A reader asks no hardware: what was never enabled is not known yet.
        if (!_defaults.TryGetValue(index, out var standard))
            return null;
        return field == Mac ? Subsystems.Net.NetDevice.FormatAddress(standard.MacAddress) : $"{standard.QueueSets}";
    }

    protected override void Configure(int index, FunctionProfile? profile)
    {
        var there = _core.GetVirtualFunction(index);
        if (!_defaults.TryGetValue(index, out var wanted))
            _defaults[index] = wanted = there;
        if (profile is not null)
            wanted = new NicVfSettings(profile.TryGet(Mac, out var mac) ? mac : wanted.MacAddress, profile.TryGet(Queues, out var queues) ? queues : wanted.QueueSets);
        if (wanted != there)
            _core.SetVirtualFunction(index, wanted);
    }
}
