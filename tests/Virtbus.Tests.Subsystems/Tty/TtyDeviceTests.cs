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
        var writing = Waiting.Start(() => (user.Write(new byte[1], Timeout.InfiniteTimeSpan, out var fault), fault.Errno));
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

    [Fact]
    public async Task Hang_up_waits_for_the_call_that_is_under_way()
    {
        var driver = new FakeLine { Room = new ManualResetEventSlim() };
        var line = await Subsystem.RegisterAsync(null, "hvc", driver);
        using var user = line.Open("test");
        var reading = Waiting.Start(() => user.Read(new byte[1], TimeSpan.Zero, out _));
        var going = Waiting.Start(() =>
        {
            line.HangUp();
            return driver.IsInside;
        });
        driver.Room.Set();
        Assert.False(await going.In());
        Assert.Equal(0, await reading.In());
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

    // Gives nothing and takes nothing.
    private sealed class FakeLine : ITtyOps
    {
        private int _calls;

        public (int Columns, int Rows) Size => (80, 24);

        internal int Calls => _calls;

        internal bool IsInside { get; private set; }

        internal ManualResetEventSlim? Room { get; init; }

        public int Read(Span<byte> destination, out Fault fault)
        {
            IsInside = true;
            Interlocked.Increment(ref _calls);
            Room?.Comes("the room");
            fault = Fault.None;
            IsInside = false;
            return 0;
        }

        public int Write(ReadOnlySpan<byte> source, out Fault fault)
        {
            Interlocked.Increment(ref _calls);
            fault = Fault.None;
            return 0;
        }
    }
}
