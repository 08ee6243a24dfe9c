using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>What was to be expected is one line without a stack; a bug keeps its own.</summary>
public sealed class LogTests
{
    public static TheoryData<Exception, string, bool> Ends => new()
    {
        { new OperationCanceledException(), "Debug The test of it ended early: it was given up", false },
        { new VirtbusException(Errno.ENODEV, "Device x is gone."), "Information The test of it ended early: Device x is gone. (ENODEV)", false },
        { new AggregateException(new VirtbusException(Errno.ENODEV, "Device x is gone.")), "Information The test of it ended early: Device x is gone. (ENODEV)", false },
        { new VirtbusException(Errno.EBUSY, "Device x is open.", new IOException("busy")), "Warning The test of it ended early: Device x is open. (EBUSY)", false },
        { new VirtbusException(Errno.EIO, "Device x broke.", new InvalidCastException("wrong type")), "Error The test of it ended early: Device x broke. (EIO)", true },
        { new InvalidCastException("wrong type"), "Error The test of it ended early: wrong type", true },
    };

    [Theory]
    [MemberData(nameof(Ends))]
    public async Task Work_beside_its_caller_ends_with_one_line_unless_it_is_a_bug(Exception end, string line, bool hasStack)
    {
        using var log = new StackLog();
        var fabric = new Fabric(new FabricOptions { LoggerFactory = log });
        fabric.StartWork("test of it", () => Task.FromException(end));
        await fabric.SettleAsync().In();
        Assert.Equal([(line, hasStack)], log.Lines);
    }

    [Fact]
    public async Task Refusals_of_callbacks_are_one_line_each()
    {
        using var log = new StackLog();
        var world = await World.NewAsync(new FabricOptions { LoggerFactory = log });
        var driver = await world.RegisterAsync("d", "a");
        driver.OnProbe = (d, _, _) =>
        {
            d.Resources.AddAction(() => throw new VirtbusException(Errno.ENODEV, "It is gone already."));
            return default;
        };
        driver.OnRemove = _ => throw new VirtbusException(Errno.EIO, "It does not answer.");
        var device = await world.AddAsync("a", 1);
        await world.Fabric.DeleteAsync(device);
        Assert.All(log.Lines, l => Assert.False(l.HasStack, l.Line));
        Assert.Contains(log.Lines, l => l.Line == "Warning mod.a.1: remove of driver test.d failed; the device is unbound all the same: It does not answer. (EIO)");
        Assert.Contains(log.Lines, l => l.Line == "Information mod.a.1: release of a resource failed; the next one is released all the same: It is gone already. (ENODEV)");
    }
}
