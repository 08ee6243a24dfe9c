using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core;

/// <summary>What of a write reaches an attribute, as with sysfs: DM-13.</summary>
public sealed class AttributeTests
{
    private const string Override = "/bus/auxiliary/devices/mod.a.1/driver_override";

    [Theory]
    [InlineData("test.d", "test.d")]
    [InlineData("test.d\n", "test.d")]
    [InlineData("test.d\njunk\n", "test.d")]
    [InlineData("test.d\0junk", "test.d")]
    [InlineData("test.d\n\0junk", "test.d")]
    [InlineData("test.d\0\njunk", "test.d")]
    [InlineData(" test.d ", " test.d ")]
    [InlineData("test.d\r\n", "test.d\r")]
    [InlineData("", "(null)")]
    [InlineData("\n", "(null)")]
    [InlineData("\0", "(null)")]
    [InlineData("\ntest.d", "(null)")]
    [InlineData("\0test.d", "(null)")]
    public async Task String_ends_at_the_first_newline_or_nul_and_an_empty_one_clears(string written, string read)
    {
        var world = await World.NewAsync();
        await world.AddAsync("a", 1);
        await world.Fabric.Tree.WriteAsync(Override, "before");
        await world.Fabric.Tree.WriteAsync(Override, written);
        Assert.Equal(read + "\n", world.Fabric.Tree.Read(Override));
    }

    [Fact]
    public async Task Id_is_the_first_line_of_what_is_written()
    {
        var world = await World.NewAsync();
        var device = await world.AddAsync("b", 1);
        var other = await world.AddAsync("c", 1);
        var driver = await world.RegisterAsync("d", "a");
        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/test.d/new_id", "mod.b 7\nmod.c 8\n");
        Assert.Equal((driver, null), (device.Driver, other.Driver));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/test.d/new_id", "\nmod.c"));
        await world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/test.d/remove_id", "mod.b\0");
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.Tree.WriteAsync("/bus/auxiliary/drivers/test.d/remove_id", "mod.b"));
    }

    [Theory]
    [InlineData("1", 1)]
    [InlineData("1\n", 1)]
    [InlineData("1\0x", 1)]
    [InlineData("1\n\0x", 1)]
    [InlineData("+1", 1)]
    [InlineData("0x1F", 31)]
    [InlineData("010", 8)]
    [InlineData("1\n2", -1)]
    [InlineData("1\n\n", -1)]
    [InlineData(" 1", -1)]
    [InlineData("1 ", -1)]
    [InlineData("++1", -1)]
    [InlineData("-1", -1)]
    [InlineData("08", -1)]
    [InlineData("", -1)]
    [InlineData("\n", -1)]
    [InlineData("\0", -1)]
    public async Task Number_may_end_with_one_newline_and_has_nothing_else_around_it(string written, int number)
    {
        var got = -1L;
        var attribute = new ObjectAttribute<World>("n", null, (_, value, _) =>
        {
            got = (long)AttributeValue.ParseUnsigned("n", value);
            return default;
        });
        var world = await World.NewAsync();
        var file = new TreeFile("/n", world, attribute);
        if (number >= 0)
            await file.WriteAsync(written);
        else
            await Expect.RefusedAsync(Errno.EINVAL, () => file.WriteAsync(written));
        Assert.Equal(number, got);
    }

    [Theory]
    [InlineData("0\n", true)]
    [InlineData("off\0n", true)]
    [InlineData("0 ", false)]
    [InlineData("0\n1", false)]
    [InlineData("", false)]
    public async Task Truth_value_may_end_with_one_newline(string written, bool isRight)
    {
        var world = await World.NewAsync();
        const string File = "/bus/auxiliary/drivers_autoprobe";
        if (isRight)
            await world.Fabric.Tree.WriteAsync(File, written);
        else
            await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(File, written));
        Assert.Equal(!isRight, world.Bus.DriversAutoprobe);
    }

    [Theory]
    [InlineData("auto\n", true)]
    [InlineData("auto\0", true)]
    [InlineData("auto ", false)]
    [InlineData("auto\non", false)]
    public async Task Word_may_end_with_one_newline(string written, bool isRight)
    {
        var world = await World.NewAsync();
        const string File = "/devices/parent/power/control";
        await world.Fabric.Tree.WriteAsync(File, "on\n");
        if (isRight)
            await world.Fabric.Tree.WriteAsync(File, written);
        else
            await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(File, written));
        Assert.Equal(isRight ? "auto\n" : "on\n", world.Fabric.Tree.Read(File));
    }

    [Fact]
    public async Task Text_for_a_file_of_bytes_is_handed_over_whole()
    {
        var got = "";
        var attribute = new BinaryAttribute<World>("b", _ => 4, (_, _, _) => { }, _ => "", (_, _, _) => { }, (_, value, _) =>
        {
            got = value;
            return default;
        });
        var world = await World.NewAsync();
        await new TreeFile("/b", world, attribute).WriteAsync(" a\nb\0c\n");
        Assert.Equal(" a\nb\0c\n", got);
    }

    [Fact]
    public async Task Write_has_at_most_a_page_of_bytes()
    {
        var world = await World.NewAsync();
        await world.AddAsync("a", 1);
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(Override, new string('x', 4097)));
        await Expect.RefusedAsync(Errno.EINVAL, () => world.Fabric.Tree.WriteAsync(Override, new string('ä', 2049)));
        await world.Fabric.Tree.WriteAsync(Override, new string('ä', 2000));
    }
}
