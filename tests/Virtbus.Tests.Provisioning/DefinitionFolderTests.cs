using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Tests.Provisioning;

/// <summary>What is defined to last is there again, whatever ended the program: the old or the new, never a part. PV-01.</summary>
public sealed class DefinitionFolderTests : IDisposable
{
    private static readonly KeyValuePair<string, string>[] Whole = [new("mac", "02:00:00:00:00:01"), new("count", "3")];
    private readonly string _folder = Directory.CreateTempSubdirectory("virtbus-state").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task Definitions_come_back_in_order_and_what_was_active_is_again()
    {
        var (engine, world, _) = await StartAsync();
        engine.Define("b", "thing", null, Whole, isKept: true);
        engine.Define("a", "thing", null, Whole, isKept: true);
        engine.Define("half", "thing", null, [new("size", "1GiB")], isKept: true);
        engine.Define("passing", "thing", null, Whole);
        engine.Define("undefined", "thing", null, Whole, isKept: true);
        await engine.ActivateAsync(["b", "passing"]);
        engine.Undefine("undefined");
        Assert.Single(world.Parent.Children, c => c.Name == "b");

        // As after a SIGKILL: nothing was taken down.
        var (again, second, shelf) = await StartAsync();
        await second.Fabric.SettleAsync().EndsAsync("what was active");
        Assert.Equal(["b", "a", "half"], again.Functions.Select(f => f.Name));
        Assert.Equal([FunctionState.Active, FunctionState.Configured, FunctionState.Defined], again.Functions.Select(f => f.State));
        Assert.Equal(["b"], shelf.Made.Select(t => t.Name));
        Assert.Equal("hook of b", shelf.Made[0].Profile.Place);
        Assert.Equal([new("size", "1GiB")], again.Get("half").Profile!.Values);

        await again.DeactivateAsync(["b"]);
        await again.SetAsync("half", Whole);
        var (last, third, _) = await StartAsync();
        await third.Fabric.SettleAsync().EndsAsync("what was active");
        Assert.Equal([FunctionState.Configured, FunctionState.Configured, FunctionState.Configured], last.Functions.Select(f => f.State));
        // New ones come behind those that were kept, also after the next start.
        last.Define("z", "thing", null, [], isKept: true);
        var (final, _, _) = await StartAsync();
        Assert.Equal(["b", "a", "half", "z"], final.Functions.Select(f => f.Name));
    }

    [Fact]
    public async Task Definition_waits_for_its_provider_and_says_what_that_does_not_take()
    {
        File.WriteAllText(Path.Combine(_folder, "one.json"), """{"name":"one","kind":"thing","parent":"parent","values":{"count":"99"},"isActive":true,"order":5}""");
        var world = await World.NewAsync();
        var engine = ProvisioningEngine.Of(world.Fabric);
        engine.Restore(new DefinitionFolder(_folder));
        var one = Assert.Single(engine.Functions);
        Assert.Equal(FunctionState.Gone, one.State);
        engine.AddProvider(new Shelf(world.Fabric, world.Parent));
        await world.Fabric.SettleAsync().EndsAsync("the engine");
        Assert.Equal(FunctionState.Defined, one.State);
        Assert.Contains("count '99'", one.Problem, StringComparison.Ordinal);
        var refused = await Assert.ThrowsAsync<VirtbusException>(async () => await engine.ActivateAsync(["one"]));
        Assert.Contains("count '99' is not right", refused.Message, StringComparison.Ordinal);
        Assert.Contains("count '99'", world.Fabric.Tree.Read("/kernel/config/functions/one/problem"), StringComparison.Ordinal);
        engine.Undefine("one");
        Assert.Empty(Directory.GetFiles(_folder));
    }

    [Fact]
    public async Task Write_that_was_not_finished_leaves_the_old_definition()
    {
        var (engine, _, _) = await StartAsync();
        engine.Define("one", "thing", null, Whole, isKept: true);
        File.WriteAllText(Path.Combine(_folder, "one.json.new"), "{\"name\":\"one\",");
        var (again, _, _) = await StartAsync();
        Assert.Equal(FunctionState.Configured, again.Get("one").State);
        Assert.Equal(["one.json"], Directory.GetFiles(_folder).Select(Path.GetFileName));
    }

    [Fact]
    public async Task Folder_that_can_not_be_read_is_named_and_what_is_left_of_a_write_does_no_harm()
    {
        var (engine, _, _) = await StartAsync();
        engine.Define("one", "thing", null, Whole, isKept: true);
        // A refused write leaves nothing that fills a disk.
        Directory.CreateDirectory(Path.Combine(_folder, "two.json", "full"));
        Assert.Throws<VirtbusException>(() => engine.Define("two", "thing", null, Whole, isKept: true));
        Assert.Equal(["one.json"], Directory.GetFiles(_folder).Select(Path.GetFileName));

        // Root may do all of it.
        if (Environment.IsPrivilegedProcess)
            return;
        File.WriteAllText(Path.Combine(_folder, "one.json.new"), "");
        File.SetUnixFileMode(_folder, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        var (again, _, _) = await StartAsync();
        Assert.Equal(FunctionState.Configured, again.Get("one").State);
        File.SetUnixFileMode(_folder, UnixFileMode.None);
        var error = await Assert.ThrowsAsync<VirtbusException>(StartAsync);
        File.SetUnixFileMode(_folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        Assert.StartsWith($"State folder {_folder} can't be read: ", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("{")]
    [InlineData("null")]
    [InlineData("{}")]
    [InlineData("""{"name":"two","kind":"thing","values":{}}""")]
    [InlineData("""{"name":"one","kind":"thing","values":{"mac":null}}""")]
    public async Task File_that_is_no_definition_is_named(string text)
    {
        File.WriteAllText(Path.Combine(_folder, "one.json"), text);
        var error = await Assert.ThrowsAsync<VirtbusException>(StartAsync);
        Assert.Equal(Errno.EINVAL, error.Errno);
        Assert.Contains(Path.Combine(_folder, "one.json"), error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Definition_that_can_not_be_kept_is_none()
    {
        var (engine, world, shelf) = await StartAsync(new FullStore());
        var refused = await Assert.ThrowsAsync<VirtbusException>(() => Task.FromResult(engine.Define("one", "thing", null, Whole, isKept: true)));
        Assert.Equal(Errno.ENOSPC, refused.Errno);
        Assert.Empty(engine.Functions);
        Assert.Empty(shelf.Made);
        Assert.Empty(world.Parent.Children);
    }

    [Fact]
    public async Task Activation_that_can_not_be_kept_is_taken_back()
    {
        var store = new FullStore { Room = 1 };
        var (engine, world, shelf) = await StartAsync(store);
        var one = engine.Define("one", "thing", null, Whole, isKept: true);
        await Assert.ThrowsAsync<VirtbusException>(async () => await engine.ActivateAsync(["one"]));
        Assert.Empty(shelf.Made);
        Assert.Empty(world.Parent.Children);
        Assert.Equal(FunctionState.Configured, one.State);
        store.Room = 1;
        await engine.ActivateAsync(["one"]);
        Assert.Equal(FunctionState.Active, one.State);
    }

    [Fact]
    public async Task Change_that_can_not_be_kept_is_changed_back()
    {
        var store = new FullStore { Room = 2 };
        var (engine, _, _) = await StartAsync(store);
        var one = engine.Define("one", "thing", null, [.. Whole, new("color", "red")], isKept: true);
        await engine.ActivateAsync(["one"]);
        await Assert.ThrowsAsync<VirtbusException>(async () => await engine.SetAsync("one", [new("color", "green")]));
        Assert.Equal(("red", "red"), (one.Profile!.Get(Shelf.Color), ((Thing)one.Device!).Profile.Get(Shelf.Color)));
    }

    [Fact]
    public async Task Deactivation_that_is_refused_leaves_what_is_there_active_also_for_the_next_start()
    {
        var (engine, world, shelf) = await StartAsync();
        var (one, two) = (engine.Define("one", "thing", null, Whole, isKept: true), engine.Define("two", "thing", null, Whole, isKept: true));
        await engine.ActivateAsync(["one", "two"]);
        shelf.OnDeactivate = static p => p.Name == "one" ? throw new VirtbusException(Errno.EIO, "stuck") : Task.CompletedTask;
        await Assert.ThrowsAsync<VirtbusException>(async () => await engine.DeactivateAsync(["one", "two"]));
        Assert.Equal([FunctionState.Active, FunctionState.Configured], [one.State, two.State]);

        // It is what its provider loses, too.
        engine.RemoveProvider(shelf);
        await world.Fabric.UnregisterAsync(shelf.Made[0]);
        Assert.Equal(FunctionState.Gone, one.State);
        Assert.Equal([true, false], new DefinitionFolder(_folder).Load().Select(static d => d.IsActive));
    }

    [Fact]
    public async Task Undefining_that_fails_in_the_middle_says_what_is_forgotten_and_what_is_not()
    {
        var store = new FullStore { Room = 3, Stuck = "two" };
        var (engine, _, _) = await StartAsync(store);
        foreach (var name in (string[])["one", "two", "three"])
            engine.Define(name, "thing", null, Whole, isKept: true);
        var refused = Assert.Throws<VirtbusException>(() => engine.Undefine(["one", "two", "three"]));
        Assert.Equal(Errno.EIO, refused.Errno);
        Assert.EndsWith("one is undefined; two, three are as before.", refused.Message, StringComparison.Ordinal);
        Assert.Equal(["two", "three"], engine.Functions.Select(static f => f.Name));
    }

    [Fact]
    public async Task Definitions_that_come_after_their_provider_are_active_again()
    {
        var (engine, _, _) = await StartAsync();
        engine.Define("one", "thing", null, Whole, isKept: true);
        await engine.ActivateAsync(["one"]);
        var world = await World.NewAsync();
        var again = ProvisioningEngine.Of(world.Fabric);
        again.AddProvider(new Shelf(world.Fabric, world.Parent));
        again.Restore(new DefinitionFolder(_folder));
        await world.Fabric.SettleAsync().EndsAsync("what was active");
        Assert.Equal(FunctionState.Active, again.Get("one").State);
    }

    private async Task<(ProvisioningEngine Engine, World World, Shelf Shelf)> StartAsync() => await StartAsync(new DefinitionFolder(_folder));

    private static async Task<(ProvisioningEngine Engine, World World, Shelf Shelf)> StartAsync(IDefinitionStore store)
    {
        var world = await World.NewAsync();
        var engine = ProvisioningEngine.Of(world.Fabric);
        engine.Restore(store);
        var shelf = new Shelf(world.Fabric, world.Parent);
        engine.AddProvider(shelf);
        return (engine, world, shelf);
    }

    private sealed class FullStore : IDefinitionStore
    {
        public int Room { get; set; }

        public IReadOnlyList<StoredDefinition> Load() => [];

        public void Save(StoredDefinition definition)
        {
            if (Room-- <= 0)
                throw new VirtbusException(Errno.ENOSPC, "The state folder is full.");
        }

        public string? Stuck { get; set; }

        public void Remove(string name)
        {
            if (name == Stuck)
                throw new VirtbusException(Errno.EIO, "The disk does not answer.");
        }
    }
}
