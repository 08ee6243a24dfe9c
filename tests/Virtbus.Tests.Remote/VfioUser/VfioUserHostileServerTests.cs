using System.Diagnostics;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;

namespace Virtbus.Tests.Remote.VfioUser;

/// <summary>Servers that keep a client waiting: each wait has an end, and can be ended before.</summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserHostileServerTests
{
    private static readonly VfioUserClientOptions Impatient = new() { Timeout = TimeSpan.FromMilliseconds(300) };

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Server_that_asks_for_memory_without_end_does_not_put_off_the_deadline(bool takesAnswers)
    {
        using var server = new HostileServer(s => s.Flood(takesAnswers));
        var since = Stopwatch.GetTimestamp();
        var error = Assert.Throws<VirtbusException>(() => VfioUserClient.Connect(server.Socket, Impatient));
        Assert.Equal(Errno.ETIMEDOUT, error.Errno);
        // Far more than it takes, far less than for ever.
        Assert.InRange(Stopwatch.GetElapsedTime(since), TimeSpan.FromMilliseconds(250), TimeSpan.FromSeconds(15));
    }

    [Fact]
    public void Server_that_says_nothing_is_given_up()
    {
        using var server = new HostileServer(null);
        Assert.Equal(Errno.ETIMEDOUT, Assert.Throws<VirtbusException>(() => VfioUserClient.Connect(server.Socket, Impatient)).Errno);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Plug_that_waits_for_its_server_is_shown_and_can_be_cancelled(bool floods)
    {
        using var server = new HostileServer(floods ? s => s.Flood(takesAnswers: false) : null);
        var world = await VfioPciWorld.NewAsync();
        world.Bus.AddProvider(new VfioUserFunctionProvider());
        var plug = world.Fabric.Tree.WriteAsync("/kernel/config/define", $"remote0 kind=pci vfio-user={server.Socket} live=1", CancellationToken.None).AsTask();
        Assert.True(server.Received.Wait(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken));
        Assert.Equal($"{server.Socket}\n", world.Fabric.Tree.Read("/kernel/config/functions/remote0/profile/vfio-user"));
        var unknown = await Assert.ThrowsAsync<VirtbusException>(async () => await world.Fabric.Tree.WriteAsync("/kernel/config/deactivate", "remote1"));
        Assert.Equal(Errno.ENOENT, unknown.Errno);
        await world.Fabric.Tree.WriteAsync("/kernel/config/deactivate", "remote0");
        var error = await Assert.ThrowsAsync<VirtbusException>(() => plug.WaitAsync(TimeSpan.FromSeconds(20)));
        Assert.Equal(Errno.ECANCELED, error.Errno);
        Assert.Throws<VirtbusException>(() => world.Fabric.Tree.Read("/kernel/config/functions/remote0/state"));
    }

    [Fact]
    public async Task Plug_whose_asker_goes_is_given_up()
    {
        using var server = new HostileServer(null);
        using var gone = new CancellationTokenSource();
        var world = await VfioPciWorld.NewAsync();
        world.Bus.AddProvider(new VfioUserFunctionProvider());
        var plug = world.Fabric.Tree.WriteAsync("/kernel/config/define", $"remote0 kind=pci vfio-user={server.Socket} live=1", gone.Token).AsTask();
        Assert.True(server.Received.Wait(TimeSpan.FromSeconds(20), TestContext.Current.CancellationToken));
        await gone.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => plug.WaitAsync(TimeSpan.FromSeconds(20)));
    }
}
