using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Tests.Provisioning;

/// <summary>Functions one by one: known as soon as they are there, refused by a provider that takes them later, given up meanwhile.</summary>
public sealed class ReconsiderTests : IAsyncLifetime
{
    private static readonly KeyValuePair<string, string>[] Whole = [new("mac", "02:00:00:00:00:01")];
    private readonly World _world = new();
    private readonly ProvisioningEngine _engine;
    private readonly Shelf _shelf;

    public ReconsiderTests()
    {
        _engine = ProvisioningEngine.Of(_world.Fabric);
        _shelf = new Shelf(_world.Fabric, _world.Parent) { DoesReturn = true };
    }

    public async ValueTask InitializeAsync() => await _world.Fabric.AddAsync(_world.Parent);

    public ValueTask DisposeAsync() => default;

    [Fact]
    public async Task Function_is_known_while_the_next_one_is_made_and_goes_when_that_fails()
    {
        _engine.AddProvider(_shelf);
        var (one, two) = (_engine.Define("one", "thing", null, Whole), _engine.Define("two", "thing", null, Whole));
        var (begun, goesOn) = (new TaskCompletionSource(), new TaskCompletionSource());
        _shelf.OnActivate = async (profile, _) =>
        {
            if (profile.Name == "one")
                return;
            begun.SetResult();
            await goesOn.Task;
            throw new VirtbusException(Errno.ENOSPC, "no hook left");
        };
        var activation = _engine.ActivateAsync(["one", "two"]).AsTask();
        await begun.Task.EndsAsync("the second to be made");
        Assert.Equal("one", one.Device?.Name);
        Assert.Null(two.Device);
        goesOn.SetResult();
        Assert.Equal(Errno.ENOSPC, (await Assert.ThrowsAsync<VirtbusException>(() => activation)).Errno);
        Assert.Null(one.Device);
        Assert.Empty(_world.Parent.Children);
    }

    [Fact]
    public async Task Reconsidering_begins_with_those_that_were_refused_and_leaves_those_that_failed()
    {
        var (one, two) = await RefuseAsync();
        Assert.Equal(1, _made["two"]);
        _shelf.OnCheck = static _ => { };
        _engine.Reconsider(_shelf);
        await _world.Fabric.SettleAsync().EndsAsync("what returns");
        Assert.Equal(FunctionState.Active, one.State);
        Assert.Equal(1, _made["one"]);
        Assert.Null(two.Device);
        Assert.Equal(1, _made["two"]);
    }

    [Fact]
    public async Task Refused_one_that_was_to_come_back_can_be_deactivated_and_does_not_come_then()
    {
        var (one, _) = await RefuseAsync();
        await _engine.DeactivateAsync(["one"]);
        Assert.Equal(Errno.EINVAL, (await Assert.ThrowsAsync<VirtbusException>(async () => await _engine.DeactivateAsync(["one"]))).Errno);
        _shelf.OnCheck = static _ => { };
        _engine.Reconsider(_shelf);
        await _world.Fabric.SettleAsync().EndsAsync("what returns");
        Assert.Null(one.Device);
        Assert.Equal(FunctionState.Configured, one.State);
        Assert.DoesNotContain("one", _made.Keys);
    }

    private readonly Dictionary<string, int> _made = [];

    // Both were active when the program before ended; their provider refuses the one, and fails to make the other.
    private async Task<(ProvisionedFunction One, ProvisionedFunction Two)> RefuseAsync()
    {
        _engine.Restore(new Kept());
        _shelf.OnCheck = static profile =>
        {
            if (profile.Name == "one")
                throw new VirtbusException(Errno.EINVAL, "it does not like it");
        };
        _shelf.OnActivate = (profile, _) =>
        {
            _made[profile.Name] = _made.GetValueOrDefault(profile.Name) + 1;
            return profile.Name == "two" ? throw new VirtbusException(Errno.ENOSPC, "no hook left") : Task.CompletedTask;
        };
        _engine.AddProvider(_shelf);
        await _world.Fabric.SettleAsync().EndsAsync("what returns");
        var (one, two) = (_engine.Get("one"), _engine.Get("two"));
        Assert.Null(one.Profile);
        return (one, two);
    }

    private sealed class Kept : IDefinitionStore
    {
        public IReadOnlyList<StoredDefinition> Load() => [Definition("one", 1), Definition("two", 2)];

        public void Save(StoredDefinition definition)
        {
        }

        public void Remove(string name)
        {
        }

        private static StoredDefinition Definition(string name, long order) => new(name, "thing", "parent", Whole.ToDictionary(), IsActive: true, Place: null, order);
    }
}
