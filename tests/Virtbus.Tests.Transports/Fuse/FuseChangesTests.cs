using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Transports.Fuse;

namespace Virtbus.Tests.Transports.Fuse;

/// <summary>What the kernel is told without having asked: what is gone, what leads elsewhere, what somebody waits for.</summary>
public sealed class FuseChangesTests : IDisposable
{
    private readonly FuseKernel _kernel = new();
    private readonly ConcurrentQueue<(int Code, byte[] Body)> _notices = new();
    private readonly FuseChanges _changes;

    public FuseChangesTests() => _changes = new FuseChanges(_kernel.Fabric.Tree, _kernel.Fabric.Uevents, _kernel.Session, Take);

    public void Dispose() => _changes.Dispose();

    [Fact]
    public async Task Device_that_goes_is_told_of_where_it_is_and_where_it_is_linked()
    {
        var @class = _kernel.Fabric.RegisterClass(new Class("kind"));
        var device = new FuseDevice("one");
        await _kernel.Fabric.AddAsync(device);
        await _kernel.Fabric.AddAsync(new Device("of", device, null, @class));
        var (place, folder) = (_kernel.Walk("devices/one/kind"), _kernel.Walk("class/kind"));
        _kernel.Walk("devices/one/kind/of");
        _kernel.Walk("class/kind/of");
        var unseen = _kernel.Walk("devices/one/fixed");
        await _kernel.Fabric.DeleteAsync(device.Children[0]);
        // The folder that was there for its sake goes, with all that the kernel knows in it, whether it is told of that before or not.
        See(folder.NodeId, "of");
        See(_kernel.Walk("devices/one").NodeId, "kind");
        Assert.All(_notices, n => Assert.Contains(Parse(n), new[] { (folder.NodeId, "of"), (place.NodeId, "of"), (_kernel.Walk("devices/one").NodeId, "kind") }));
        Assert.Equal(unseen.NodeId, _kernel.Walk("devices/one/fixed").NodeId);
    }

    [Fact]
    public async Task Driver_that_takes_and_leaves_a_device_has_its_link_told()
    {
        var world = new World();
        var kernel = new FuseKernel(fabric: world.Fabric);
        using var told = new FuseChanges(world.Fabric.Tree, world.Fabric.Uevents, kernel.Session, Take);
        await world.Fabric.AddAsync(world.Parent);
        await world.RegisterAsync("first", "a");
        var device = await world.AddAsync("a", 1);
        var place = kernel.Walk($"devices/parent/{device.Name}");
        kernel.LookUp(place.NodeId, "driver");
        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/test.first/unbind", device.Name);
        await told.ToldAsync();
        Assert.Contains(_notices, n => Parse(n) == (place.NodeId, "driver"));
        Assert.Equal(Errno.ENOENT, kernel.Ask(FuseOpcode.FUSE_LOOKUP, place.NodeId, FuseKernel.Name("driver")).Errno);
    }

    [Fact]
    public async Task One_that_took_the_place_of_another_is_not_taken_for_it()
    {
        var device = new FuseDevice("one");
        await _kernel.Fabric.AddAsync(device);
        var (folder, before) = (_kernel.Walk("devices"), _kernel.Walk("devices/one"));
        // Both events are there when the first is seen to, or not: it is told of once in either case.
        await _kernel.Fabric.DeleteAsync(device);
        await _kernel.Fabric.AddAsync(new FuseDevice("one"));
        Deadline.Until(() => !_notices.IsEmpty, "the notice");
        Assert.Equal((folder.NodeId, "one"), Parse(Assert.Single(_notices)));
        Assert.NotEqual(before.NodeId, _kernel.Walk("devices/one").NodeId);
    }

    [Fact]
    public async Task Who_polls_is_told_of_a_write_of_a_change_and_of_the_end()
    {
        var device = new FuseDevice("one");
        await _kernel.Fabric.AddAsync(device);
        var node = _kernel.Walk("devices/one/value").NodeId;
        var (handle, other) = (_kernel.Open(node), _kernel.Open(_kernel.Walk("devices/one/fixed").NodeId));
        Watch(node, handle, 77);
        Watch(node, other, 78);
        await _kernel.Fabric.Tree.WriteAsync("/devices/one/value", "second");
        SeePoll(77);
        // Of its own accord.
        _kernel.Fabric.Tree.Notify(device, "value");
        SeePoll(77);
        Assert.Empty(_notices);
        _kernel.Fabric.EmitUevent(device, UeventAction.Change);
        SeePoll(77, 78);
        _kernel.Ask(FuseOpcode.FUSE_RELEASE, node, FuseKernel.Words(other, 0, 0));
        await _kernel.Fabric.DeleteAsync(device);
        SeePoll(77);

        void Watch(ulong file, ulong opened, ulong poller)
        {
            _kernel.Read(file, opened);
            Assert.Equal(Errno.None, _kernel.Ask(FuseOpcode.FUSE_POLL, file, FuseKernel.Words(opened, poller, FuseProtocol.FUSE_POLL_SCHEDULE_NOTIFY)).Errno);
        }
    }

    private void SeePoll(params ulong[] pollers)
    {
        foreach (var poller in pollers)
        {
            Deadline.Until(() => _notices.Any(n => n.Code == FuseProtocol.FUSE_NOTIFY_POLL && MemoryMarshal.Read<ulong>(n.Body) == poller), $"a notice to {poller}");
        }

        var others = _notices.Where(static n => n.Code != FuseProtocol.FUSE_NOTIFY_POLL).ToArray();
        _notices.Clear();
        foreach (var other in others)
            _notices.Enqueue(other);
    }

    private void See(ulong folder, string name) => Deadline.Until(() => _notices.Any(n => Parse(n) == (folder, name)), $"{name} among what the kernel is told");

    private static (ulong Folder, string Name) Parse((int Code, byte[] Body) notice)
    {
        const int fields = 16;
        if (notice.Code != FuseProtocol.FUSE_NOTIFY_INVAL_ENTRY)
            return default;
        var length = MemoryMarshal.Read<int>(notice.Body.AsSpan(fields - 8));
        Assert.Equal(fields + length + 1, notice.Body.Length);
        Assert.Equal(0, notice.Body[^1]);
        return (MemoryMarshal.Read<ulong>(notice.Body), Encoding.UTF8.GetString(notice.Body, fields, length));
    }

    private Errno Take(ReadOnlySpan<byte> message)
    {
        Assert.Equal((message.Length, 0UL), (MemoryMarshal.Read<int>(message), MemoryMarshal.Read<ulong>(message[8..])));
        _notices.Enqueue((MemoryMarshal.Read<int>(message[4..]), message[FuseProtocol.OutHeaderSize..].ToArray()));
        return Errno.None;
    }
}
