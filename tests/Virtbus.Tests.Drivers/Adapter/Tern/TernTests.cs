using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.Adapter.Tern;

/// <summary>The contract between core drivers and parts is open: a make with rings of its own implements it and its parts run. MS-05, MS-08.</summary>
public sealed class TernTests : IAsyncDisposable
{
    private const ulong Broadcast = 0xFFFFFFFFFFFF;
    private readonly TernFunction _hardware = new();
    private AdapterFixture? _fixture;

    public async ValueTask DisposeAsync()
    {
        if (_fixture is not null)
            await _fixture.DisposeAsync();
        _hardware.Dispose();
    }

    [Fact]
    public async Task Make_with_rings_of_another_form_runs_under_the_unchanged_net_driver()
    {
        var device = await PlugAsync();
        Assert.Equal("tern_core", device.Driver?.Name);
        Assert.Equal(["tern0np0", "tern0np1", "tern_core.net.0", "tern_core.net.1"], device.Children.Select(d => d.Name).Order(StringComparer.Ordinal));
        Assert.All(device.Children.OfType<NicPart>(), p => Assert.Equal("nic_net", p.Driver?.Name));
        var (from, to) = (_fixture!.Net("tern0np0"), _fixture.Net("tern0np1"));
        Assert.Equal(0x020000000031UL, to.Address);

        var there = new FrameSink(40);
        var back = new FrameSink(1);
        to.AddReceiver(there);
        from.AddReceiver(back);
        // More than the ring has slots, so it goes round.
        for (var i = 0; i < 40; i++)
            Assert.True(from.TryTransmit(AdapterFixture.Frame(Broadcast, from.Address, i), out var fault), fault.Message);
        Assert.True(to.TryTransmit(AdapterFixture.Frame(Broadcast, to.Address, 99), out _));
        await there.Done;
        await back.Done;
        Assert.Equal(Enumerable.Range(0, 40), there.Sequences);
        Assert.Equal([99], back.Sequences);

        // Unbound and bound again, as any core driver.
        await _fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/tern_core/unbind", device.Name);
        Assert.Empty(device.Children);
        await _fixture.Fabric.Tree.WriteAsync("/bus/pci/drivers/tern_core/bind", device.Name);
        await _fixture.Fabric.SettleAsync();
        Assert.True(_fixture.Net("tern0np1").IsUp);
    }

    [Fact]
    public async Task Make_offers_only_what_it_has_and_the_part_driver_that_needs_more_says_what()
    {
        var device = await PlugAsync();
        var core = device.GetDriverData<TernCore>()!;
        Assert.NotNull(((INicCore)core).Find<INicLink>());
        Assert.Null(((INicCore)core).Find<INicVirtio>());
        Assert.Null(((INicCore)core).Find<INicMigration>());
        Assert.Equal((2, 2), (core.Total, core.Used));
        Assert.Equal(Errno.ENOSPC, Assert.Throws<VirtbusException>(() => core.Allocate("third", 16)).Errno);

        var part = new NicPart(_fixture!.Auxiliary, "tern_core", NicPartKind.Vdpa, 0, 0, core);
        await _fixture.Fabric.RegisterAsync(part);
        await _fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_vdpa/new_id", "tern_core.vdpa");
        await _fixture.Fabric.SettleAsync();
        Assert.Null(part.Driver);
        var refused = await Assert.ThrowsAsync<VirtbusException>(
            async () => await _fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_vdpa/bind", part.Name));
        Assert.Equal(Errno.ENODEV, refused.Errno);
        Assert.Contains("tern_core.vdpa.0 has no INicVirtio", refused.Message);
        await _fixture.Fabric.UnregisterAsync(part);
    }

    private async Task<PciDevice> PlugAsync()
    {
        _fixture = await AdapterFixture.StartAsync();
        await _fixture.Fabric.RegisterDriverAsync(new TernCoreDriver(_fixture.Pci));
        await _fixture.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/nic_net/new_id", "tern_core.net");
        var device = await _fixture.Pci.PlugAsync(_hardware, label: "tern0");
        await _fixture.Fabric.SettleAsync();
        return device;
    }
}
