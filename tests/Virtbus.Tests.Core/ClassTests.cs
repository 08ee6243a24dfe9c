using Virtbus.Core;

namespace Virtbus.Tests.Core;

/// <summary>Class devices and their observers: DM-12, DM-30, MS-03.</summary>
public sealed class ClassTests
{
    [Fact]
    public async Task Observer_sees_what_is_there_what_comes_and_what_goes()
    {
        var fabric = new Fabric();
        var net = fabric.RegisterClass(new Class("net"));
        var old = new Device("old", @class: net);
        await fabric.AddAsync(old);
        var observer = new Observer();
        await fabric.AddClassObserverAsync(net, observer);
        var late = new Device("late", @class: net);
        await fabric.AddAsync(late);
        await fabric.DeleteAsync(old);
        await fabric.RemoveClassObserverAsync(net, observer);
        await fabric.RemoveClassObserverAsync(net, observer);
        await fabric.DeleteAsync(late);
        Assert.Equal(["+old", "+late", "-old", "-late"], observer.Seen);
    }

    [Fact]
    public async Task Device_deleted_while_it_is_announced_is_taken_back_afterwards()
    {
        var fabric = new Fabric();
        var net = fabric.RegisterClass(new Class("net"));
        var inAdd = new TaskCompletionSource();
        var go = new TaskCompletionSource();
        var observer = new Observer
        {
            OnAdded = async () =>
            {
                inAdd.SetResult();
                await go.Task;
            },
        };
        await fabric.AddClassObserverAsync(net, observer);
        var device = new Device("d", @class: net);
        var add = fabric.AddAsync(device).AsTask();
        await inAdd.Task.In();
        var delete = fabric.DeleteAsync(device).AsTask();
        Assert.False(delete.IsCompleted);
        go.SetResult();
        await Task.WhenAll(add, delete).In();
        Assert.Equal(["+d", "-d"], observer.Seen);
    }

    [Fact]
    public async Task Failing_observer_is_logged_and_the_device_stays()
    {
        var lines = new RecordedLog();
        var fabric = new Fabric(new FabricOptions { LoggerFactory = lines });
        var net = fabric.RegisterClass(new Class("net"));
        await fabric.AddClassObserverAsync(net, new Observer { OnAdded = () => throw new InvalidOperationException("no") });
        await fabric.AddAsync(new Device("d", @class: net));
        Assert.Single(net.Devices);
        Assert.Contains(lines.Lines, l => l.Contains("an observer of class net failed", StringComparison.Ordinal));
    }

    private sealed class Observer : IClassObserver
    {
        public List<string> Seen { get; } = [];

        public Func<Task>? OnAdded { get; init; }

        public async ValueTask DeviceAddedAsync(Device device)
        {
            if (OnAdded is not null)
                await OnAdded();
            Seen.Add("+" + device.Name);
        }

        public ValueTask DeviceRemovedAsync(Device device)
        {
            Seen.Add("-" + device.Name);
            return default;
        }
    }
}
