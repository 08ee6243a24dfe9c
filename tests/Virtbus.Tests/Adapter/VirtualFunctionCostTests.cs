using Virtbus.Subsystems.Net;
using Xunit;

namespace Virtbus.Tests.Adapter;

/// <summary>What many virtual functions cost: VP-06.</summary>
[Collection(nameof(Alone))]
public sealed class VirtualFunctionCostTests
{
    private const ulong Broadcast = 0xFFFFFFFFFFFF;

    [Fact]
    public async Task All_virtual_functions_are_enabled_and_bound_and_an_idle_one_is_small()
    {
        await using var fixture = await AdapterFixture.StartAsync();
        var adapter = await fixture.AddMerlinAsync("adapter0", nets: 1, vdpas: 0, vfs: 256);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "1");
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "0");
        // What other tests left to the finalizers must not hide what these take.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var before = GC.GetTotalMemory(forceFullCollection: true);
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "256");
        Assert.Equal(256, adapter.Device.VirtualFunctions.Count);
        Assert.All(adapter.Device.VirtualFunctions, f => Assert.Equal("merlin_core", f.Driver?.Name));
        Assert.Equal(257, NetSubsystem.Of(fixture.Fabric).Class.Devices.Count(d => ((NetDevice)d).IsUp));
        // Managed memory of the function, its devices, its driver and its interface; config space alone is 4 KiB.
        Assert.InRange((GC.GetTotalMemory(forceFullCollection: true) - before) / 256, 4096, 48 * 1024);

        // All of them are on one switch.
        var sinks = adapter.Device.VirtualFunctions.Select(_ => new FrameSink(1)).ToArray();
        for (var i = 0; i < 256; i++)
            fixture.Net($"adapter0v{i}np0").AddReceiver(sinks[i]);
        Assert.True(fixture.Net("adapter0np0").TryTransmit(AdapterFixture.Frame(Broadcast, 0x020000000010, 1), out _));
        await Task.WhenAll(sinks.Select(s => s.Done));
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "0");
        Assert.Equal(1, adapter.Hardware.Engine.QueueSetCount);
    }
}
