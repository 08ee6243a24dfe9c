using System.Text;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioConsole;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioConsole;
using Virtbus.Platform;
using Virtbus.Subsystems.Tty;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A console through the whole way, function, virtio_pci, virtio bus, virtio_console, class tty, and one whose device is in the test's hand.</summary>
public sealed class VirtioConsoleTests
{
    private const string Place = "/class/tty/hvc0/";
    private const int Slots = 32;
    private const int SlotSize = 512;

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public async Task Bytes_go_both_ways_in_order_and_each_once(bool isPacked, bool isLegacy)
    {
        await using var rig = await VirtioRig.StartAsync();
        var (model, peer) = Connect(isPacked);
        var function = new VirtioFunction(model, new VirtioFunctionOptions { IsTransitional = isLegacy });
        var pci = await rig.PlugAsync(isLegacy ? SpoiledFunction.WithoutCapabilities(function) : function);
        Assert.Equal((isLegacy, isPacked), (rig.Only.IsLegacy, rig.Only.Has(VirtioFeatures.VIRTIO_F_RING_PACKED)));
        using var user = OnlyLine(rig).Open("test");
        var text = new byte[100_003];
        new Random(1).NextBytes(text);
        var sending = peer.SendAsync(model, text);
        Assert.Equal(text, await Task.Run(() => Read(user, text.Length), TestContext.Current.CancellationToken).In());
        await sending.In();
        var writing = Task.Run(() => (user.Write(text, Deadline.Limit, out var fault), fault), TestContext.Current.CancellationToken);
        Assert.Equal((text.Length, Fault.None), await writing.In());
        await Deadline.UntilAsync(() => peer.Count >= text.Length, "the text");
        Assert.Equal(text, peer.Text);
        Assert.Equal(0, pci.Dma.Faults);
    }

    [Fact]
    public async Task Line_has_its_place_in_the_class_and_one_user_at_a_time()
    {
        await using var rig = await VirtioRig.StartAsync();
        await rig.PlugAsync(Connect().Model);
        await rig.PlugAsync(Connect().Model);
        var line = OnlyLine(rig, "hvc0");
        Assert.Equal(rig.Base.Virtio.Devices[0].DevPath + "/tty/hvc0", line.DevPath);
        Assert.Equal(rig.Base.Virtio.Devices[1], OnlyLine(rig, "hvc1").Parent);
        Assert.Equal(("0\n", "0\n"), (rig.Base.Read(Place + "columns"), rig.Base.Read(Place + "rows")));
        Assert.Contains("DEVNAME=hvc0", rig.Base.Read(Place + "uevent"), StringComparison.Ordinal);
        var user = line.Open("first");
        Assert.Equal("first\n", rig.Base.Read(Place + "user"));
        Assert.Contains("open by first", Expect.Refused(Errno.EBUSY, () => line.Open("second")).Message, StringComparison.Ordinal);
        user.Dispose();
        Assert.Equal((0, Errno.EBADF), Read(user, TimeSpan.Zero));
        using var next = line.Open("second");
        Assert.Equal((0, Errno.EAGAIN), Read(next, TimeSpan.Zero));
    }

    [Fact]
    public async Task Buffer_is_given_back_when_its_bytes_are_taken_and_not_before()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        using var user = console.Line.Open("test");
        Assert.Equal(Slots, console.Offered(HandConsole.Input));
        for (var i = 0; i < Slots; i++)
            Assert.True(console.TrySend("abc"u8));
        // The device has none left, whatever comes.
        Assert.False(console.TrySend("d"u8));
        console.Interrupt(HandConsole.Input);
        Assert.Equal(Slots, console.Offered(HandConsole.Input));
        var bytes = new byte[2];
        Assert.Equal(2, user.Read(bytes, TimeSpan.Zero, out _));
        Assert.Equal(Slots, console.Offered(HandConsole.Input));
        Assert.Equal(2, user.Read(bytes, TimeSpan.Zero, out _));
        Assert.Equal("ca", Encoding.ASCII.GetString(bytes));
        Assert.Equal(Slots + 1, console.Offered(HandConsole.Input));
        Assert.Equal("bc" + string.Concat(Enumerable.Repeat("abc", Slots - 2)), Encoding.ASCII.GetString(Read(user, (3 * Slots) - 4)));
        Assert.Equal(2 * Slots, console.Offered(HandConsole.Input));
        // An empty one is no text.
        Assert.True(console.TrySend([]));
        console.Interrupt(HandConsole.Input);
        Assert.Equal((0, Errno.EAGAIN), Read(user, TimeSpan.Zero));
        Assert.Equal((2 * Slots) + 1, console.Offered(HandConsole.Input));
    }

    [Fact]
    public async Task What_a_user_has_not_read_is_not_the_next_ones()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        // With nobody there it waits.
        console.TrySend("before"u8);
        console.Interrupt(HandConsole.Input);
        var user = console.Line.Open("first");
        Assert.Equal("bef", Encoding.ASCII.GetString(Read(user, 3)));
        console.TrySend("secret"u8);
        console.Interrupt(HandConsole.Input);
        user.Dispose();
        using var next = console.Line.Open("second");
        console.TrySend("after"u8);
        console.Interrupt(HandConsole.Input);
        Assert.Equal("after", Encoding.ASCII.GetString(Read(next, 5)));
    }

    [Fact]
    public async Task Writer_is_refused_while_the_device_takes_nothing_and_goes_on_when_it_does()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        var changes = 0;
        using var user = console.Line.Open("test", () => Interlocked.Increment(ref changes));
        var text = new byte[40_000];
        new Random(2).NextBytes(text);
        Assert.False(console.WantsCalls(HandConsole.Output));
        Assert.Equal((Slots * SlotSize, Errno.EAGAIN), Write(user, text, TimeSpan.FromMilliseconds(1)));
        Assert.Equal(Slots, console.Offered(HandConsole.Output));
        Assert.True(console.WantsCalls(HandConsole.Output));
        var writing = Waiting.Start(() => Write(user, text.AsSpan(Slots * SlotSize), Timeout.InfiniteTimeSpan));
        var taken = new List<byte>();
        Assert.Equal(0, changes);
        await Deadline.UntilAsync(
            () =>
            {
                while (console.Take() is { Length: > 0 } bytes)
                    taken.AddRange(bytes);
                console.Interrupt(HandConsole.Output);
                return writing.IsCompleted && taken.Count == text.Length;
            },
            "the text");
        Assert.Equal((text.Length - (Slots * SlotSize), Errno.None), await writing.In());
        Assert.Equal(text, taken.ToArray());
        Assert.NotEqual(0, changes);
        // Nobody is refused any more.
        console.Interrupt(HandConsole.Output);
        Assert.False(console.WantsCalls(HandConsole.Output));
    }

    [Fact]
    public async Task Reader_gets_what_comes_while_it_waits_and_a_wait_has_its_end()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        var changes = 0;
        using var user = console.Line.Open("test", () => changes++);
        Assert.Equal((0, Errno.EAGAIN), Read(user, TimeSpan.FromMilliseconds(1)));
        var reading = Waiting.Start(() => Read(user, Timeout.InfiniteTimeSpan));
        console.TrySend("abc"u8);
        console.Interrupt(HandConsole.Input);
        Assert.Equal((3, Errno.None), await reading.In());
        Assert.Equal(1, changes);
    }

    [Fact]
    public async Task Size_is_what_the_device_says_and_its_change_is_told()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig, size: [80, 0, 24, 0]);
        Assert.Equal(("80\n", "24\n"), (rig.Read(Place + "columns"), rig.Read(Place + "rows")));
        var told = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        using var user = console.Line.Open("test", () => told.TrySetResult());
        new byte[] { 0x2C, 1, 50, 0 }.CopyTo(console.Transport.Config, 0);
        console.Transport.Change();
        await told.Task.In();
        Assert.Equal((300, 50), console.Line.Size);
    }

    [Fact]
    public async Task User_who_opens_as_the_driver_still_probes_is_told_of_what_came_meanwhile()
    {
        await using var rig = await FabricRig.StartAsync();
        HandConsole? console = null;
        TtyUser? user = null;
        var (told, before) = (0, 0);
        var driver = new InterruptedDriver(rig.Virtio, line =>
        {
            user = line.Open("test", () => told++);
            console!.TrySend("early"u8);
            console.Interrupt(HandConsole.Input);
            before = told;
        });
        await rig.Fabric.RegisterDriverAsync(driver).In();
        await HandConsole.AddAsync(rig, await rig.Fabric.RegisterAsync(new Device("card")), made: c => console = c);
        Assert.Equal((0, 1), (before, told));
        Assert.Equal("early", Encoding.ASCII.GetString(Read(user!, 5)));
        user!.Dispose();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Who_waits_at_a_device_that_is_pulled_is_told_and_nothing_is_left(bool reads)
    {
        await using var rig = await VirtioRig.StartAsync();
        var pci = await rig.PlugAsync(Connect().Model);
        // The device has no way to memory.
        pci.SetMaster(false);
        var line = OnlyLine(rig);
        using var user = line.Open("test");
        var waiting = Waiting.Start(() => reads ? Read(user, Timeout.InfiniteTimeSpan) : Write(user, new byte[100_000], Timeout.InfiniteTimeSpan));
        await rig.Base.Pci.SurpriseRemoveAsync(pci).In();
        var (count, error) = await waiting.In();
        Assert.Equal(Errno.ENODEV, error);
        Assert.Equal(reads ? 0 : Slots * SlotSize, count);
        await rig.Fabric.SettleAsync().In();
        Assert.True(line.IsHungUp);
        Assert.Equal((0, Errno.ENODEV), Read(user, TimeSpan.Zero));
        Expect.Refused(Errno.ENODEV, () => line.Open("next"));
        Assert.Empty(TtySubsystem.Of(rig.Fabric).Class.Devices);
        Assert.Equal(0, pci.Dma.AddressSpace?.Count ?? 0);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Who_waits_is_told_when_the_driver_goes(bool reads)
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        var line = console.Line;
        using var user = line.Open("test");
        var waiting = Waiting.Start(() => reads ? Read(user, Timeout.InfiniteTimeSpan) : Write(user, new byte[100_000], Timeout.InfiniteTimeSpan));
        await rig.Fabric.UnbindAsync(console.Device.Driver!, console.Device.Name).In();
        Assert.Equal(Errno.ENODEV, (await waiting.In()).Errno);
        Assert.True(line.IsHungUp);
    }

    [Fact]
    public async Task Who_waits_is_told_when_the_user_closes()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        var user = console.Line.Open("test");
        var waiting = Waiting.Start(() => Read(user, Timeout.InfiniteTimeSpan));
        user.Dispose();
        Assert.Equal((0, Errno.EBADF), await waiting.In());
    }

    [Fact]
    public async Task Unbind_leaves_nothing_mapped_and_a_bind_goes_on()
    {
        await using var rig = await VirtioRig.StartAsync();
        var (model, peer) = Connect();
        var pci = await rig.PlugAsync(model);
        // Two rings, and the buffers of both.
        Assert.Equal(3, Ranges(pci));
        await rig.Fabric.UnbindAsync(rig.Only.Driver!, rig.Only.Name).In();
        Assert.Equal((0, VirtioStatus.ACKNOWLEDGE), (Ranges(pci), model.Status));
        Assert.Empty(TtySubsystem.Of(rig.Fabric).Class.Devices);
        Assert.True(rig.Base.Virtio.TryGetDriver(VirtioRig.Console, out var driver));
        await rig.Fabric.BindAsync(driver, rig.Only.Name).In();
        using var user = OnlyLine(rig).Open("test");
        await peer.SendAsync(model, "again"u8.ToArray()).In();
        Assert.Equal("again", Encoding.ASCII.GetString(Read(user, 5)));
        Assert.Equal(0, pci.Dma.Faults);
    }

    [Fact]
    public async Task Sleep_loses_neither_what_has_come_nor_what_was_not_taken()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        using var user = console.Line.Open("test");
        // What waits lies across the end of the circle of slots.
        for (var i = 0; i < Slots - 3; i++)
        {
            Assert.Equal((1, Errno.None), Write(user, "x"u8, TimeSpan.Zero));
            Assert.Equal(1, console.Take().Length);
        }

        console.TrySend("come"u8);
        foreach (var text in (string[])["first", "last taken", "second", "third"])
            Assert.Equal((text.Length, Errno.None), Write(user, Encoding.ASCII.GetBytes(text), TimeSpan.Zero));
        Assert.Equal("first", Encoding.ASCII.GetString(console.Take()));
        var taken = "";
        // As the driver lets go already.
        console.Transport.Resetting = () =>
        {
            console.Transport.Resetting = null;
            console.TrySend(" last"u8);
            taken = Encoding.ASCII.GetString(console.Take());
        };
        await rig.Fabric.SuspendAsync().In();
        Assert.Equal("last taken", taken);
        Assert.Equal(1, rig.Time.Timers);
        Assert.Equal("co", Encoding.ASCII.GetString(Read(user, 2)));
        var waiting = Waiting.Start(() => Write(user, "fourth"u8, Timeout.InfiniteTimeSpan));
        // It sleeps, and nothing else.
        rig.Time.Advance(TimeSpan.FromSeconds(30));
        await rig.Fabric.ResumeAsync().In();
        console.Restart();
        Assert.Equal((6, Errno.None), await waiting.In());
        Assert.Equal(0, rig.Time.Timers);
        Assert.Equal(Slots - 2, console.Offered(HandConsole.Input));
        Assert.Equal("me", Encoding.ASCII.GetString(Read(user, 2)));
        Assert.Equal(Slots - 1, console.Offered(HandConsole.Input));
        Assert.Equal(" last", Encoding.ASCII.GetString(Read(user, 5)));
        Assert.Equal(Slots, console.Offered(HandConsole.Input));
        foreach (var text in (string[])["second", "third", "fourth"])
            Assert.Equal(text, Encoding.ASCII.GetString(console.Take()));
        Assert.True(console.Take().IsEmpty);
        console.TrySend("more"u8);
        console.Interrupt(HandConsole.Input);
        Assert.Equal("more", Encoding.ASCII.GetString(Read(user, 4)));
    }

    [Fact]
    public async Task Who_waits_at_a_device_that_does_not_come_back_from_a_sleep_is_told()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        using var user = console.Line.Open("test");
        await rig.Fabric.SuspendAsync().In();
        var waiting = Waiting.Start(() => Read(user, Timeout.InfiniteTimeSpan));
        console.Transport.ResetFault = new Fault(Errno.ETIMEDOUT, "it does not come out of its reset");
        try
        {
            await rig.Fabric.ResumeAsync().In();
        }
        catch (VirtbusException)
        {
            // Told or not: the device is as good as gone.
        }

        rig.Time.Advance(TimeSpan.FromSeconds(6));
        Assert.Equal((0, Errno.EIO), await waiting.In());
        Assert.Equal((0, Errno.EIO), Write(user, "text"u8, Timeout.InfiniteTimeSpan));
    }

    [Fact]
    public async Task Device_that_lies_breaks_its_queue_and_who_waits_is_told()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        using var user = console.Line.Open("test");
        console.TrySend("last"u8);
        console.Interrupt(HandConsole.Input);
        Assert.Equal(4, user.Read(new byte[10], TimeSpan.Zero, out _));
        var reading = Waiting.Start(() => Read(user, Timeout.InfiniteTimeSpan));
        console.Use(HandConsole.Input, 77, 1);
        console.Interrupt(HandConsole.Input);
        Assert.Equal((0, Errno.EIO), await reading.In());
        // The other one is found by who writes, and told to who waits beside.
        Assert.Equal((Slots * SlotSize, Errno.EAGAIN), Write(user, new byte[Slots * SlotSize + 1], TimeSpan.Zero));
        var writing = Waiting.Start(() => Write(user, "more"u8, Timeout.InfiniteTimeSpan));
        console.Use(HandConsole.Output, 77, 0);
        Assert.Equal((0, Errno.EIO), Write(user, "text"u8, TimeSpan.Zero));
        Assert.Equal((0, Errno.EIO), await writing.In());
        Assert.Contains("broke queue 1 (output)", rig.Log.Text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(HandConsole.Input)]
    [InlineData(HandConsole.Output)]
    public async Task Nobody_is_told_of_a_lie_while_others_are_kept_out(int queue)
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        TtyUser? user = null;
        var (told, kept) = (0, 0);
        user = console.Line.Open("test", () =>
        {
            told++;
            // Another thread gets in, both ways.
            var other = new Thread(() =>
            {
                Read(user!, TimeSpan.Zero);
                Write(user!, "x"u8, TimeSpan.Zero);
            });
            other.Start();
            kept += other.Join(Deadline.Limit) ? 0 : 1;
        });
        Write(user, new byte[Slots * SlotSize], TimeSpan.Zero);
        console.Use(queue, 77, 0);
        if (queue == HandConsole.Input)
            console.Interrupt(queue);
        else
            Write(user, "y"u8, TimeSpan.Zero);
        Assert.Equal((true, 0), (told > 0, kept));
        user.Dispose();
    }

    [Fact]
    public async Task Nothing_is_allocated_for_what_comes_and_goes()
    {
        await using var rig = await StartAsync();
        var console = await AddAsync(rig);
        using var user = console.Line.Open("test");
        var bytes = new byte[100];
        var allocated = 0L;
        for (var i = 0; i < 1100; i++)
        {
            console.TrySend("0123456789"u8);
            var before = GC.GetAllocatedBytesForCurrentThread();
            console.Interrupt(HandConsole.Input);
            user.Read(bytes, TimeSpan.Zero, out _);
            user.Read(bytes, TimeSpan.Zero, out _);
            user.Write(bytes, TimeSpan.Zero, out _);
            if (i >= 100)
                allocated += GC.GetAllocatedBytesForCurrentThread() - before;
            if (i % 40 != 0)
                Assert.Equal(bytes.Length, console.Take().Length);
        }

        Assert.Equal(0, allocated);
    }

    private static async Task<FabricRig> StartAsync()
    {
        var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioConsoleModule(), VirtioRig.Console);
        return rig;
    }

    private static async Task<HandConsole> AddAsync(FabricRig rig, byte[]? size = null) =>
        await HandConsole.AddAsync(rig, await rig.Fabric.RegisterAsync(new Device("card")), size);

    private static (VirtioConsoleDevice Model, TextPeer Peer) Connect(bool isPacked = false)
    {
        var (model, peer) = (new VirtioConsoleDevice("talk", isPacked), new TextPeer());
        Assert.True(model.TryConnect(peer, out _));
        return (model, peer);
    }

    private static TtyDevice OnlyLine(VirtioRig rig, string name = "hvc0")
    {
        Assert.True(TtySubsystem.Of(rig.Fabric).Class.TryGetDevice(name, out var line), "there is no such line");
        return (TtyDevice)line!;
    }

    private static int Ranges(Virtbus.Buses.Pci.PciDevice device)
    {
        using var map = device.Dma.Snapshot();
        return map.Ranges.Length;
    }

    private static byte[] Read(TtyUser user, int count)
    {
        var bytes = new byte[count];
        for (var done = 0; done < count;)
        {
            var more = user.Read(bytes.AsSpan(done), Deadline.Limit, out var fault);
            Assert.True(more > 0, fault.Message);
            done += more;
        }

        return bytes;
    }

    private static (int Count, Errno Errno) Read(TtyUser user, TimeSpan wait) => (user.Read(new byte[10], wait, out var fault), fault.Errno);

    private static (int Count, Errno Errno) Write(TtyUser user, ReadOnlySpan<byte> text, TimeSpan wait) => (user.Write(text, wait, out var fault), fault.Errno);

    /// <summary>Probes as the real one, with the test's steps between the line's registration and its end.</summary>
    private sealed class InterruptedDriver(VirtioBus bus, Action<TtyDevice> registered) : VirtioDriver(bus, VirtioRig.Console, new VirtioMatchId(VirtioDeviceId.VIRTIO_ID_CONSOLE))
    {
        public override VirtioFeatures Features => VirtioFeatures.None;

        protected override async ValueTask ProbeAsync(VirtioBusDevice device, CancellationToken cancellationToken)
        {
            var port = device.Resources.Add(new ConsolePort(device));
            port.Start();
            var subsystem = TtySubsystem.Of(device.Fabric!);
            var line = await subsystem.RegisterAsync(device, "hvc", port);
            device.Resources.AddAction(() => subsystem.UnregisterAsync(line));
            registered(line);
            port.SetLine(line);
        }
    }
}
