using Virtbus.Subsystems.Net;

namespace Virtbus.Tests.Drivers.Adapter;

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
        var mapped = Mapped();
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "256");
        Assert.Equal(256, adapter.Device.VirtualFunctions.Count);
        Assert.All(adapter.Device.VirtualFunctions, f => Assert.Equal("merlin_core", f.Driver?.Name));
        Assert.Equal(257, NetSubsystem.Of(fixture.Fabric).Class.Devices.Count(d => ((NetDevice)d).IsUp));
        // Managed memory of the function, its devices, its driver and its interface; config space alone is 4 KiB.
        var managed = GC.GetTotalMemory(forceFullCollection: true) - before;
        Assert.InRange(managed / 256, 4096, 48 * 1024);
        // And with what is there of its rings and buffers, which are mapped.
        Assert.InRange((managed + Mapped() - mapped) / 256, 4096, 64 * 1024);

        // All of them are on one switch.
        var sinks = adapter.Device.VirtualFunctions.Select(_ => new FrameSink(1)).ToArray();
        for (var i = 0; i < 256; i++)
            fixture.Net($"adapter0v{i}np0").AddReceiver(sinks[i]);
        Assert.True(fixture.Net("adapter0np0").TryTransmit(AdapterFixture.Frame(Broadcast, 0x020000000010, 1), out _));
        await Task.WhenAll(sinks.Select(s => s.Done));
        await fixture.Fabric.Tree.WriteAsync(adapter.Device.DevPath + "/sriov_numvfs", "0");
        Assert.Equal(1, adapter.Hardware.Engine.QueueSetCount);
    }

    // Bytes of memory files that are mapped and there, by the kernel's account.
    private static long Mapped()
    {
        var sum = 0L;
        var isOurs = false;
        foreach (var line in File.ReadLines("/proc/self/smaps"))
        {
            if (line.Contains('-', StringComparison.Ordinal) && !line.Contains(" kB", StringComparison.Ordinal))
                isOurs = line.Contains("/memfd:virtbus", StringComparison.Ordinal);
            else if (isOurs && line.StartsWith("Rss:", StringComparison.Ordinal))
                sum += long.Parse(line.AsSpan(4, line.Length - 4 - 3), System.Globalization.NumberStyles.AllowLeadingWhite, System.Globalization.CultureInfo.InvariantCulture) << 10;
        }
        return sum;
    }
}
