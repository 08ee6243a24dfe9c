using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Tests.Provisioning;

/// <summary>Functions are defined, configured and only then visible, by one engine for all kinds. PV-01 to PV-03, PV-06.</summary>
public sealed class EngineTests : IAsyncLifetime
{
    private static readonly KeyValuePair<string, string>[] Whole = [new("mac", "02:00:00:00:00:01"), new("count", "3")];
    private readonly World _world = new();
    private readonly ProvisioningEngine _engine;
    private readonly Shelf _shelf;

    public EngineTests()
    {
        _engine = ProvisioningEngine.Of(_world.Fabric);
        _shelf = new Shelf(_world.Fabric, _world.Parent);
    }

    public async ValueTask InitializeAsync()
    {
        await _world.Fabric.AddAsync(_world.Parent);
        _engine.AddProvider(_shelf);
    }

    public ValueTask DisposeAsync() => default;

    [Fact]
    public async Task Nothing_is_visible_before_activation_and_a_definition_outlives_it()
    {
        var before = _world.Events();
        var one = _engine.Define("one", "thing", "parent", []);
        Assert.Equal(FunctionState.Defined, one.State);
        await _engine.SetAsync("one", Whole);
        Assert.Equal(FunctionState.Configured, one.State);
        Assert.Empty(_world.Parent.Children);
        Assert.Equal(before, _world.Events());

        await _engine.ActivateAsync(["one"]);
        Assert.Equal(FunctionState.Active, one.State);
        Assert.Equal("one", Assert.Single(_world.Parent.Children).Name);
        var thing = Assert.IsType<Thing>(one.Device);
        Assert.Equal(3, thing.Profile.Get(Shelf.Count));
        thing.IsHeld = true;
        Assert.Equal(FunctionState.InUse, one.State);
        thing.IsHeld = false;

        await _engine.DeactivateAsync(["one"]);
        Assert.Equal(FunctionState.Configured, one.State);
        Assert.Empty(_world.Parent.Children);
        await _engine.ActivateAsync(["one"]);
        await Refused(Errno.EBUSY, "is active", () => _engine.Undefine("one"));
        await _engine.DeactivateAsync(["one"]);
        _engine.Undefine("one");
        Assert.Empty(_engine.Functions);
    }

    [Fact]
    public async Task What_has_to_be_set_is_asked_for_before_anything_is_made()
    {
        _engine.Define("one", "thing", null, [new("count", "3")]);
        var told = await Refused(Errno.EINVAL, "mac (a unicast station address", () => _engine.ActivateAsync(["one"]));
        Assert.Contains("virtbus function set one mac=", told, StringComparison.Ordinal);
        Assert.Empty(_shelf.Made);
        await _engine.SetAsync("one", [new("mac", "02:00:00:00:00:01")]);
        await _engine.ActivateAsync(["one"]);
        Assert.Equal(4, ProfileCountAfterReset());

        int ProfileCountAfterReset() => FunctionProfile.Parse("thing", "x", _shelf.Fields, []).Get(Shelf.Count);
    }

    [Theory]
    [InlineData(Errno.EOPNOTSUPP, "can't have 'colour'", "count=5", "colour=red")]
    [InlineData(Errno.EINVAL, "count '17' is not right. Write a number of screws from 1 to 16", "count=17", "size=1MiB")]
    [InlineData(Errno.EINVAL, "count '-1'", "count=-1")]
    [InlineData(Errno.EINVAL, "size '1000'", "size=1000")]
    [InlineData(Errno.EINVAL, "size '0'", "size=0")]
    [InlineData(Errno.EINVAL, "size '9999999999TiB'", "size=9999999999TiB")]
    [InlineData(Errno.EINVAL, "mac '01:00:00:00:00:01'", "mac=01:00:00:00:00:01")]
    [InlineData(Errno.EINVAL, "mac '02-00-00-00-00-0'", "mac=02-00-00-00-00-0")]
    [InlineData(Errno.EINVAL, "color 'blue' is not right. Write one of: red, green", "count=5", "color=blue")]
    [InlineData(Errno.EINVAL, "one screw holds at most 1MiB", "count=1", "size=2MiB")]
    public async Task Request_with_one_wrong_attribute_changes_nothing(Errno errno, string message, params string[] words)
    {
        var pairs = ProfileText.ParsePairs(words);
        await Refused(errno, message, () => _engine.Define("one", "thing", null, pairs));
        Assert.Empty(_engine.Functions);

        var one = _engine.Define("one", "thing", null, Whole);
        await Refused(errno, message, () => _engine.SetAsync("one", pairs));
        Assert.Equal([new("count", "3"), new("mac", "02:00:00:00:00:01")], one.Profile!.Values);
    }

    [Fact]
    public async Task All_that_is_wrong_is_told_at_once()
    {
        var told = await Refused(Errno.EINVAL, "count '0'", () => _engine.Define("one", "thing", null, [new("count", "0"), new("mac", "x"), new("shape", "y")]));
        Assert.Contains("mac 'x'", told, StringComparison.Ordinal);
        Assert.Contains("'shape'", told, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Attributes_change_when_their_provider_lets_them()
    {
        var one = _engine.Define("one", "thing", null, Whole);
        await _engine.ActivateAsync(["one"]);
        await Refused(Errno.EBUSY, "its count can change only before that", () => _engine.SetAsync("one", [new("count", "5"), new("color", "red")]));
        Assert.False(one.Profile!.IsSet(Shelf.Color));
        // The same value is no change.
        await _engine.SetAsync("one", [new("count", "3"), new("color", "red")]);
        Assert.Equal("red", ((Thing)one.Device!).Profile.Get(Shelf.Color));

        _shelf.OnChange = static _ => throw new VirtbusException(Errno.EIO, "no paint");
        await Refused(Errno.EIO, "no paint", () => _engine.SetAsync("one", [new("color", "green")]));
        Assert.Equal("red", one.Profile!.Get(Shelf.Color));
        await _engine.DeactivateAsync(["one"]);
        await _engine.SetAsync("one", [new("color", "")]);
        Assert.False(one.Profile!.IsSet(Shelf.Color));
    }

    [Fact]
    public async Task Several_are_activated_whole_or_not_at_all()
    {
        var other = new Shelf(_world.Fabric, _world.Parent, "other");
        _engine.AddProvider(other);
        foreach (var (name, kind) in (ReadOnlySpan<(string, string)>)[("a", "thing"), ("b", "thing"), ("c", "other")])
            _engine.Define(name, kind, null, Whole);
        other.OnActivate = static (_, _) => throw new VirtbusException(Errno.ENOSPC, "no hook left");
        await Refused(Errno.ENOSPC, "no hook left", () => _engine.ActivateAsync(["a", "b", "c"]));
        Assert.Empty(_world.Parent.Children);
        Assert.All(_engine.Functions, f => Assert.Equal(FunctionState.Configured, f.State));

        _shelf.OnActivate = (p, _) => p.Name == "b" ? throw new VirtbusException(Errno.ENOSPC, "b falls") : Task.CompletedTask;
        await Refused(Errno.ENOSPC, "b falls", () => _engine.ActivateAsync(["a", "b"]));
        Assert.Empty(_world.Parent.Children);
        await Refused(Errno.ENOENT, "'d'", () => _engine.ActivateAsync(["a", "d"]));
        await _engine.ActivateAsync(["a"]);
        await Refused(Errno.EBUSY, "active already, as a", () => _engine.ActivateAsync(["a", "b"]));
        Assert.Single(_world.Parent.Children);
    }

    [Fact]
    public async Task Deactivation_cancels_an_activation_that_waits()
    {
        var one = _engine.Define("one", "thing", null, Whole);
        var begun = new TaskCompletionSource();
        _shelf.OnActivate = async (_, cancel) =>
        {
            begun.SetResult();
            await Deadline.NeverAsync(cancel);
        };
        var activation = _engine.ActivateAsync(["one"]).AsTask();
        await begun.Task.EndsAsync("the activation to begin");
        await Refused(Errno.EBUSY, "is being activated", () => _engine.SetAsync("one", [new("count", "5")]));
        await Refused(Errno.EBUSY, "is being activated", () => _engine.ActivateAsync(["one"]));
        await Refused(Errno.EBUSY, "is being activated", () => _engine.Undefine("one"));
        await _engine.DeactivateAsync(["one"]).AsTask().EndsAsync("the deactivation");
        await Refused(Errno.ECANCELED, "was cancelled", () => new ValueTask(activation));
        Assert.Equal(FunctionState.Configured, one.State);
        await Refused(Errno.EINVAL, "is not active", () => _engine.DeactivateAsync(["one"]));
    }

    [Fact]
    public async Task Function_that_is_added_is_active_or_is_not_at_all()
    {
        var one = await _engine.AddAsync("one", "thing", null, Whole);
        Assert.Equal(FunctionState.Active, one.State);
        await Refused(Errno.EEXIST, "'one' is defined already", () => new ValueTask(_engine.AddAsync("one", "thing", null, Whole).AsTask()));
        _shelf.OnActivate = static (_, _) => throw new VirtbusException(Errno.ENOSPC, "no hook left");
        await Refused(Errno.ENOSPC, "no hook left", () => new ValueTask(_engine.AddAsync("two", "thing", null, Whole).AsTask()));
        Assert.Equal([one], _engine.Functions);

        // One that went by itself makes room.
        _shelf.OnActivate = static (_, _) => Task.CompletedTask;
        await _world.Fabric.UnregisterAsync(one.Device!);
        Assert.NotSame(one, await _engine.AddAsync("one", "thing", null, Whole));
        await _engine.DeactivateAsync(["one"]);
        _engine.Undefine("one");

        // Whoever cancels it by its deactivation is done when it is forgotten.
        var begun = new TaskCompletionSource();
        _shelf.OnActivate = async (_, cancel) =>
        {
            begun.SetResult();
            await Deadline.NeverAsync(cancel);
        };
        var adding = _engine.AddAsync("three", "thing", null, Whole).AsTask();
        await begun.Task.EndsAsync("the activation to begin");
        await _engine.DeactivateAsync(["three"]).AsTask().EndsAsync("the deactivation");
        await Refused(Errno.ECANCELED, "was cancelled", () => new ValueTask(adding));
        Assert.Empty(_engine.Functions);
    }

    [Fact]
    public async Task Function_drains_while_its_user_has_it()
    {
        var one = _engine.Define("one", "thing", null, Whole);
        await _engine.ActivateAsync(["one"]);
        var gone = new TaskCompletionSource();
        _shelf.OnDeactivate = _ => gone.Task;
        var deactivation = _engine.DeactivateAsync(["one"]).AsTask();
        Assert.Equal(FunctionState.Draining, one.State);
        await Refused(Errno.EBUSY, "being deactivated", () => _engine.ActivateAsync(["one"]));
        await Refused(Errno.EBUSY, "being deactivated", () => _engine.DeactivateAsync(["one"]));
        gone.SetResult();
        await deactivation.EndsAsync("the deactivation");
        Assert.Equal(FunctionState.Configured, one.State);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Functions_come_back_with_their_provider_when_it_has_it_so(bool returns)
    {
        _engine.RemoveProvider(_shelf);
        var shelf = new Shelf(_world.Fabric, _world.Parent) { DoesReturn = returns };
        _engine.AddProvider(shelf);
        var (one, two) = (_engine.Define("one", "thing", null, Whole), _engine.Define("two", "thing", null, Whole));
        await _engine.ActivateAsync(["one", "two"]);
        await _engine.DeactivateAsync(["two"]);

        _engine.RemoveProvider(shelf);
        await _world.Fabric.UnregisterAsync(shelf.Made[0]);
        Assert.Equal(FunctionState.Gone, one.State);
        Assert.Equal(FunctionState.Configured, two.State);
        await Refused(Errno.ENODEV, "Nothing makes function 'one' now", () => _engine.ActivateAsync(["one"]));
        await Refused(Errno.ENODEV, "nothing makes functions of kind 'thing'", () => _engine.Define("three", "thing", "parent", []));

        _engine.AddProvider(shelf);
        await _world.Fabric.SettleAsync().EndsAsync("the functions that return");
        Assert.Equal(returns ? FunctionState.Active : FunctionState.Gone, one.State);
        Assert.Equal(FunctionState.Configured, two.State);
        // One that is gone is not to come back any more.
        if (!returns)
            await _engine.DeactivateAsync(["one"]);
        Assert.Equal(returns ? FunctionState.Active : FunctionState.Configured, one.State);
    }

    [Fact]
    public async Task Provider_that_is_back_before_an_activation_has_ended_gets_its_functions()
    {
        _engine.RemoveProvider(_shelf);
        var shelf = new Shelf(_world.Fabric, _world.Parent) { DoesReturn = true };
        _engine.AddProvider(shelf);
        var one = _engine.Define("one", "thing", null, Whole);
        await _engine.ActivateAsync(["one"]);
        await _world.Fabric.UnregisterAsync(shelf.Made[0]);
        Assert.Equal(FunctionState.Gone, one.State);

        var (begun, goesOn) = (new TaskCompletionSource(), new TaskCompletionSource());
        shelf.OnActivate = async (_, _) =>
        {
            begun.SetResult();
            await goesOn.Task;
            throw new VirtbusException(Errno.ENODEV, "it went");
        };
        var activation = _engine.ActivateAsync(["one"]).AsTask();
        await begun.Task.EndsAsync("the activation to begin");
        _engine.RemoveProvider(shelf);
        _engine.AddProvider(shelf);
        shelf.OnActivate = static (_, _) => Task.CompletedTask;
        goesOn.SetResult();
        await Refused(Errno.ENODEV, "it went", () => new ValueTask(activation));
        await _world.Fabric.SettleAsync().EndsAsync("the function that returns");
        Assert.Equal(FunctionState.Active, one.State);
    }

    [Fact]
    public async Task What_is_there_when_its_provider_comes_is_active_and_returns_when_that_says_so()
    {
        _engine.RemoveProvider(_shelf);
        var shelf = new Shelf(_world.Fabric, _world.Parent) { DoesReturn = true };
        _engine.AddProvider(shelf);
        var one = _engine.Define("one", "thing", null, Whole);
        await _engine.ActivateAsync(["one"]);
        // It comes before it has taken down what it had: the engine can't know that it is going to.
        _engine.RemoveProvider(shelf);
        _engine.AddProvider(shelf);
        Assert.Equal(FunctionState.Active, one.State);
        await _world.Fabric.UnregisterAsync(shelf.Made[0]);
        await _world.Fabric.SettleAsync().EndsAsync("what returns");
        Assert.Equal(FunctionState.Gone, one.State);
        _engine.Return(shelf);
        await _world.Fabric.SettleAsync().EndsAsync("what returns");
        Assert.Equal(FunctionState.Active, one.State);
    }

    [Fact]
    public async Task What_is_only_being_added_is_deactivated_and_forgotten()
    {
        var begun = new TaskCompletionSource();
        _shelf.OnActivate = async (_, cancel) =>
        {
            begun.SetResult();
            await Deadline.NeverAsync(cancel);
        };
        var adding = _engine.AddAsync("one", "thing", null, Whole).AsTask();
        await begun.Task.EndsAsync("the activation to begin");
        await _engine.DeactivateAsync(["one"]).AsTask().EndsAsync("the deactivation");
        await Refused(Errno.ECANCELED, "was cancelled", async () => await adding);
        Assert.Empty(_engine.Functions);
    }

    [Fact]
    public async Task Refused_deactivation_of_several_cancels_and_changes_nothing()
    {
        _engine.Define("one", "thing", null, Whole);
        var two = _engine.Define("two", "thing", null, Whole);
        var (begun, goesOn) = (new TaskCompletionSource(), new TaskCompletionSource());
        _shelf.OnActivate = async (_, cancel) =>
        {
            begun.SetResult();
            await goesOn.Task.WaitAsync(cancel);
        };
        var activation = _engine.ActivateAsync(["two"]).AsTask();
        await begun.Task.EndsAsync("the activation to begin");
        await Refused(Errno.EINVAL, "'one' is not active", () => _engine.DeactivateAsync(["two", "one"]));
        goesOn.SetResult();
        await activation.EndsAsync("the activation");
        Assert.Equal(FunctionState.Active, two.State);
    }

    [Fact]
    public async Task Several_are_deactivated_only_when_none_is_known_to_refuse()
    {
        var other = new Shelf(_world.Fabric, _world.Parent, "other");
        _engine.AddProvider(other);
        foreach (var (name, kind) in (ReadOnlySpan<(string, string)>)[("a", "thing"), ("b", "thing"), ("c", "other")])
            _engine.Define(name, kind, null, Whole);
        await _engine.ActivateAsync(["a", "b", "c"]);
        _shelf.OnCheckDeactivation = static names => _ = names.Count == 1 ? throw new VirtbusException(Errno.EBUSY, $"{names[0]} goes with its like") : 0;
        await Refused(Errno.EBUSY, "a goes with its like", () => _engine.DeactivateAsync(["c", "a"]));
        await Refused(Errno.EBUSY, "a goes with its like", () => _engine.CheckDeactivation(["c", "a"]));
        await Refused(Errno.EBUSY, "a goes with its like", () => _world.Fabric.Tree.WriteAsync("/kernel/config/deactivate", "c a check=1"));
        await Refused(Errno.ENOENT, "'d'", () => _engine.DeactivateAsync(["a", "b", "d"]));
        await _world.Fabric.Tree.WriteAsync("/kernel/config/deactivate", "a b c check=1");
        Assert.All(_engine.Functions, static f => Assert.Equal(FunctionState.Active, f.State));

        // What is only known when it is tried: the others go all the same, and the answer says which.
        other.OnDeactivate = static _ => throw new VirtbusException(Errno.EIO, "stuck.");
        await Refused(Errno.EIO, "stuck. a, b are deactivated; c is as before.", () => _engine.DeactivateAsync(["a", "b", "c"]));
        Assert.Equal([FunctionState.Configured, FunctionState.Configured, FunctionState.Active], _engine.Functions.Select(static f => f.State));
        await Refused(Errno.EIO, "stuck.", () => _engine.DeactivateAsync(["c"]));
    }

    [Fact]
    public async Task Several_are_undefined_whole_or_not_at_all()
    {
        foreach (var name in (string[])["a", "b", "c"])
            _engine.Define(name, "thing", null, Whole);
        await _engine.ActivateAsync(["b"]);
        await Refused(Errno.EBUSY, "Function 'b' is active", () => _world.Fabric.Tree.WriteAsync("/kernel/config/undefine", "a b c"));
        await Refused(Errno.ENOENT, "'d'", () => _engine.Undefine(["a", "d"]));
        Assert.Equal(["a", "b", "c"], _engine.Functions.Select(static f => f.Name));
        await _engine.DeactivateAsync(["b"]);
        await _world.Fabric.Tree.WriteAsync("/kernel/config/undefine", "a b c a");
        Assert.Empty(_engine.Functions);
    }

    [Fact]
    public async Task Function_that_does_not_come_back_says_why()
    {
        _engine.RemoveProvider(_shelf);
        var shelf = new Shelf(_world.Fabric, _world.Parent) { DoesReturn = true };
        _engine.AddProvider(shelf);
        var one = _engine.Define("one", "thing", null, Whole);
        await _engine.ActivateAsync(["one"]);
        await _world.Fabric.UnregisterAsync(shelf.Made[0]);
        var (begun, goesOn) = (new TaskCompletionSource(), new TaskCompletionSource());
        shelf.OnActivate = async (_, _) =>
        {
            begun.SetResult();
            await goesOn.Task;
            throw new VirtbusException(Errno.ETIMEDOUT, "its server does not answer");
        };
        _engine.Return(shelf);
        await begun.Task.EndsAsync("the function to begin to return");
        Assert.Equal((FunctionState.Coming, null, true), (one.State, one.Problem, one.IsAwaited));
        goesOn.SetResult();
        await _world.Fabric.SettleAsync().EndsAsync("the function to return");
        Assert.Equal((FunctionState.Failed, "its server does not answer", true), (one.State, one.Problem, one.IsAwaited));
        Assert.Equal("failed\n", _world.Fabric.Tree.Read("/kernel/config/functions/one/state"));
        Assert.Equal("its server does not answer\n", _world.Fabric.Tree.Read("/kernel/config/functions/one/problem"));

        // Activated or given up, it is a thing of the past.
        shelf.OnActivate = static (_, _) => Task.CompletedTask;
        await _engine.ActivateAsync(["one"]);
        Assert.Equal((FunctionState.Active, null), (one.State, one.Problem));
        await _world.Fabric.UnregisterAsync(one.Device!);
        shelf.OnActivate = static (_, _) => throw new VirtbusException(Errno.EIO, "no");
        await Refused(Errno.EIO, "no", () => _engine.ActivateAsync(["one"]));
        Assert.Equal(FunctionState.Failed, one.State);
        await _engine.DeactivateAsync(["one"]);
        Assert.Equal((FunctionState.Configured, null, false), (one.State, one.Problem, one.IsAwaited));
        // It can't be as it is now: that is told as well, and nothing is begun.
        shelf.OnActivate = static (_, _) => Task.CompletedTask;
        await _engine.ActivateAsync(["one"]);
        await _world.Fabric.UnregisterAsync(one.Device!);
        await _engine.SetAsync("one", [new("mac", "")]);
        _engine.Return(shelf);
        await _world.Fabric.SettleAsync().EndsAsync("the function to return");
        Assert.Equal(FunctionState.Failed, one.State);
        Assert.Contains("mac (a unicast station address", one.Problem, StringComparison.Ordinal);
        await _engine.SetAsync("one", Whole);
        _engine.Return(shelf);
        await _world.Fabric.SettleAsync().EndsAsync("the function to return");
        Assert.Equal(FunctionState.Active, one.State);
        await _engine.DeactivateAsync(["one"]);
        shelf.OnActivate = static (_, _) => throw new VirtbusException(Errno.EIO, "no");
        // It never was there, so it is not missing.
        await Refused(Errno.EIO, "no", () => _engine.ActivateAsync(["one"]));
        Assert.Equal((FunctionState.Configured, null), (one.State, one.Problem));
    }

    [Fact]
    public async Task Names_kinds_and_parents_are_told_when_they_are_wrong()
    {
        var second = new Device("second");
        await _world.Fabric.AddAsync(second);
        _engine.AddProvider(new Shelf(_world.Fabric, second));
        await Refused(Errno.EINVAL, "Name what it hangs at, one of parent, second", () => _engine.Define("one", "thing", null, []));
        await Refused(Errno.ENODEV, "can be made at parent, second", () => _engine.Define("one", "thing", "third", []));
        await Refused(Errno.ENODEV, "The kinds that can be made now are thing", () => _engine.Define("one", "screw", null, []));
        await Refused(Errno.EINVAL, "'-one' is no name", () => _engine.Define("-one", "thing", "parent", []));
        await Refused(Errno.EINVAL, "'a/b' is no name", () => _engine.Define("a/b", "thing", "parent", []));
        // Its path names the parent too; the lasting name is kept.
        Assert.Equal("parent", _engine.Define("one", "thing", _world.Parent.DevPath, []).Parent);
        await Refused(Errno.EEXIST, "'one' is defined already", () => _engine.Define("one", "thing", "second", []));
        await Refused(Errno.EEXIST, "There is a provider of thing functions at parent", () => _engine.AddProvider(new Shelf(_world.Fabric, _world.Parent)));
    }

    [Fact]
    public async Task Tree_does_what_the_engine_does()
    {
        const string Config = "/kernel/config/";
        var tree = _world.Fabric.Tree;
        await tree.WriteAsync(Config + "define", "one kind=thing parent=parent count=3");
        Assert.Equal("defined\n", tree.Read(Config + "functions/one/state"));
        Assert.Equal("4\n", (await SetAndRead("count", "")).Count);
        await tree.WriteAsync(Config + "functions/one/set", "mac=02:00:00:00:00:01 count=2");
        await tree.WriteAsync(Config + "functions/one/profile/size", "64MiB");
        Assert.Equal("configured\n", tree.Read(Config + "functions/one/state"));
        Assert.Equal("0\n", tree.Read(Config + "functions/one/live"));
        await tree.WriteAsync(Config + "functions/one/live", "1");
        Assert.Equal("active\n", tree.Read(Config + "functions/one/state"));
        Assert.Equal("1\n", tree.Read(Config + "functions/one/live"));
        Assert.Equal(_world.Parent.DevPath + "/one", Assert.IsType<TreeLink>(tree.Find(Config + "functions/one/device", follow: false)).Target);
        await tree.WriteAsync(Config + "deactivate", "one");
        Assert.Equal("configured\n", tree.Read(Config + "functions/one/state"));
        await tree.WriteAsync(Config + "undefine", "one");
        Assert.Empty(_engine.Functions);
        Assert.Equal("a unicast station address, for example 02:00:00:00:00:10; has to be set\n", tree.Read(Config + "kinds/thing@parent/fields/mac"));
        Assert.Equal("one of: red, green; may change while active\n", tree.Read(Config + "kinds/thing@parent/fields/color"));
        await Refused(Errno.EINVAL, "defines no function", () => tree.WriteAsync(Config + "define", "one"));
        await Refused(Errno.EINVAL, "names no function", () => tree.WriteAsync(Config + "activate", " "));

        async Task<(string Count, string Mac)> SetAndRead(string field, string value)
        {
            await tree.WriteAsync(Config + "functions/one/profile/" + field, value);
            return (tree.Read(Config + "functions/one/profile/count"), tree.Read(Config + "functions/one/profile/mac"));
        }
    }

    [Theory]
    [InlineData("a b", "a", "b")]
    [InlineData("  a\t b ", "a", "b")]
    [InlineData("f=\"x y\" b", "f=x y", "b")]
    [InlineData("\"\"", "")]
    [InlineData("\"a\\\"b\\\\\"", "a\"b\\")]
    public void Words_may_stand_in_quotation_marks(string line, params string[] words)
    {
        Assert.Equal(words, ProfileText.Split(line));
        Assert.Equal(words, ProfileText.Split(string.Join(' ', words.Select(ProfileText.Quote))));
    }

    [Fact]
    public void Pairs_are_checked()
    {
        Assert.Contains("without an end", Assert.Throws<VirtbusException>(() => ProfileText.Split("a=\"b")).Message, StringComparison.Ordinal);
        Assert.Contains("'a' is there twice", Assert.Throws<VirtbusException>(() => ProfileText.ParsePairs(["a=1", "a=2"])).Message, StringComparison.Ordinal);
        Assert.Contains("'=1' is no attribute", Assert.Throws<VirtbusException>(() => ProfileText.ParsePairs(["=1"])).Message, StringComparison.Ordinal);
        Assert.Contains("'a' is no attribute", Assert.Throws<VirtbusException>(() => ProfileText.ParsePairs(["a"])).Message, StringComparison.Ordinal);
        Assert.Equal("b=c", Assert.Single(ProfileText.ParsePairs(["a=b=c"])).Value);
    }

    private static Task<string> Refused(Errno errno, string message, Action act) => Refused(errno, message, () =>
    {
        act();
        return default;
    });

    private static async Task<string> Refused(Errno errno, string message, Func<ValueTask> act)
    {
        var error = await Assert.ThrowsAsync<VirtbusException>(async () => await act());
        Assert.Equal(errno, error.Errno);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        return error.Message;
    }
}
