using System.Runtime.CompilerServices;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems.Tty;

namespace Virtbus.Tests.Subsystems.Tty;

/// <summary>Lines of class tty, whatever driver they have.</summary>
public sealed class TtyDeviceTests
{
    private readonly Fabric _fabric = new();

    private TtySubsystem Subsystem => TtySubsystem.Of(_fabric);

    [Fact]
    public async Task Line_has_the_first_name_of_its_kind_that_is_free()
    {
        var lines = new List<TtyDevice>();
        for (var i = 0; i < 3; i++)
            lines.Add(await Subsystem.RegisterAsync(null, "hvc", new FakeLine()));
        Assert.Equal(["hvc0", "hvc1", "hvc2"], lines.Select(static l => l.Name));
        await Subsystem.UnregisterAsync(lines[1]).In();
        Assert.Equal("ttyS0", (await Subsystem.RegisterAsync(null, "ttyS", new FakeLine())).Name);
        Assert.Equal("hvc1", (await Subsystem.RegisterAsync(null, "hvc", new FakeLine())).Name);
        await Expect.RefusedAsync(Errno.EINVAL, async () => await Subsystem.RegisterAsync(null, "", new FakeLine()));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Hang_up_is_told_to_who_waits_and_the_driver_is_called_no_more(bool isDeleted)
    {
        var driver = new FakeLine();
        var line = await Subsystem.RegisterAsync(null, "hvc", driver);
        var changes = 0;
        using var user = line.Open("test", () => changes++);
        var reading = Waiting.Start(() => (user.Read(new byte[1], Timeout.InfiniteTimeSpan, out var fault), fault.Errno));
        var writing = Waiting.Start(() => (user.Write(new byte[1], TimeSpan.MaxValue, out var fault), fault.Errno));
        // Somebody may take the device out of the tree first.
        if (isDeleted)
            await _fabric.DeleteAsync(line).In();
        else
            await Subsystem.UnregisterAsync(line).In();
        Assert.Equal((0, Errno.ENODEV), await reading.In());
        Assert.Equal((0, Errno.ENODEV), await writing.In());
        Assert.NotEqual(0, changes);
        var calls = driver.Calls;
        Assert.Equal(0, user.Read(new byte[1], TimeSpan.Zero, out _));
        Assert.Equal((calls, default), (driver.Calls, line.Size));
        Expect.Refused(Errno.ENODEV, () => line.Open("next"));
    }

    [Theory]
    [InlineData("read")]
    [InlineData("write")]
    [InlineData("size")]
    public async Task Hang_up_waits_for_the_call_that_is_under_way(string call)
    {
        var driver = new FakeLine { Room = new ManualResetEventSlim() };
        var line = await Subsystem.RegisterAsync(null, "hvc", driver);
        using var user = line.Open("test");
        var calling = Waiting.Start(() => call switch
        {
            "read" => user.Read(new byte[1], TimeSpan.Zero, out _),
            "write" => user.Write(new byte[1], TimeSpan.Zero, out _),
            _ => line.Size.Columns - 80,
        });
        Deadline.Until(() => driver.IsInside, "the call");
        var going = Waiting.Start(() =>
        {
            line.HangUp();
            return driver.IsInside;
        });
        driver.Room.Set();
        Assert.False(await going.In());
        Assert.Equal(0, await calling.In());
    }

    [Fact]
    public async Task Wait_has_its_end_however_often_the_driver_tells_of_changes()
    {
        var driver = new FakeLine();
        var line = await Subsystem.RegisterAsync(null, "hvc", driver);
        driver.Called = line.Wake;
        using var user = line.Open("test");
        var reading = Waiting.Start(() => (user.Read(new byte[1], TimeSpan.FromMilliseconds(1), out var fault), fault.Errno));
        var writing = Waiting.Start(() => (user.Write(new byte[1], TimeSpan.Zero, out var fault), fault.Errno));
        Assert.Equal((0, Errno.EAGAIN), await reading.In());
        Assert.Equal((0, Errno.EAGAIN), await writing.In());
    }

    [Fact]
    public async Task Change_between_a_look_and_the_wait_is_not_missed()
    {
        var driver = new FakeLine();
        var line = await Subsystem.RegisterAsync(null, "hvc", driver);
        // Comes too late for the call that is under way.
        driver.Called = () =>
        {
            driver.Bytes = 1;
            line.Wake();
        };
        using var user = line.Open("test");
        Assert.Equal(1, await Waiting.Start(() => user.Read(new byte[2], Timeout.InfiniteTimeSpan, out _)).In());
        driver.Bytes = 0;
        Assert.Equal(1, await Waiting.Start(() => user.Write(new byte[1], Timeout.InfiniteTimeSpan, out _)).In());
    }

    [Fact]
    public async Task Driver_of_a_line_that_hung_up_is_not_held_by_its_user()
    {
        var (driver, user) = await OpenAsync();
        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        Assert.False(driver.TryGetTarget(out _), "it is held");
        user.Dispose();
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private async Task<(WeakReference<FakeLine> Driver, TtyUser User)> OpenAsync()
    {
        var driver = new FakeLine();
        var line = await Subsystem.RegisterAsync(null, "hvc", driver);
        var user = line.Open("test");
        await Subsystem.UnregisterAsync(line);
        return (new WeakReference<FakeLine>(driver), user);
    }

    // Gives nothing and takes nothing, where no test says otherwise.
    private sealed class FakeLine : ITtyOps
    {
        private int _calls;

        public (int Columns, int Rows) Size
        {
            get
            {
                Call();
                return (80, 24);
            }
        }

        internal int Calls => _calls;

        internal bool IsInside { get; private set; }

        internal ManualResetEventSlim? Room { get; init; }

        internal Action? Called { get; set; }

        internal int Bytes { get; set; }

        public int Read(Span<byte> destination, out Fault fault)
        {
            fault = Fault.None;
            var count = Bytes;
            Call();
            return count;
        }

        public int Write(ReadOnlySpan<byte> source, out Fault fault)
        {
            fault = Fault.None;
            var count = Bytes;
            Call();
            return count;
        }

        private void Call()
        {
            IsInside = true;
            Interlocked.Increment(ref _calls);
            Called?.Invoke();
            Room?.Comes("the room");
            IsInside = false;
        }
    }
}
