using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Tests.Provisioning;

/// <summary>A provider of things below a device, whose steps a test can hold up or let fail.</summary>
internal sealed class Shelf(Fabric fabric, Device parent, string kind = "thing") : SingleFunctionProvider
{
    public static readonly ProfileField<int> Count = ProfileFields.Number("count", "screws", 1, 16, standard: 4);
    public static readonly ProfileField<ulong> Mac = ProfileFields.Mac("mac", isRequired: true);
    public static readonly ProfileField<long> Size = ProfileFields.Size("size", 512);
    public static readonly ProfileField<string> Color = ProfileFields.Choice("color", ["red", "green"], change: FieldChange.WhileActive);

    private static readonly ProfileField[] All = [Count, Mac, Size, Color];

    public override string Kind => kind;

    public override IReadOnlyList<string> Parents => [parent.Name, parent.DevPath];

    public override IReadOnlyList<ProfileField> Fields => All;

    public override bool Returns => DoesReturn;

    public bool DoesReturn { get; init; }

    /// <summary>Before a function is made; throws to fail.</summary>
    public Func<FunctionProfile, CancellationToken, Task> OnActivate { get; set; } = static (_, _) => Task.CompletedTask;

    public Func<FunctionProfile, Task> OnDeactivate { get; set; } = static _ => Task.CompletedTask;

    public Func<FunctionProfile, Task> OnChange { get; set; } = static _ => Task.CompletedTask;

    /// <summary>Asked before a deactivation begins; throws to refuse it.</summary>
    public Action<IReadOnlyList<string>> OnCheckDeactivation { get; set; } = static _ => { };

    public List<Thing> Made { get; } = [];

    /// <summary>Asked of each profile; throws to refuse it.</summary>
    public Action<FunctionProfile> OnCheck { get; set; } = static _ => { };

    public override void Check(FunctionProfile profile)
    {
        OnCheck(profile);
        if (profile.TryGet(Size, out var size) && size > 1 << 20 && profile.Get(Count) == 1)
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': one screw holds at most 1MiB. Write count=2.");
    }

    public override void CheckDeactivation(IReadOnlyList<(FunctionProfile Profile, Device Device)> functions) => OnCheckDeactivation([.. functions.Select(static f => f.Profile.Name)]);

    public override async ValueTask ChangeAsync(FunctionProfile before, FunctionProfile after, Device device)
    {
        await OnChange(after);
        ((Thing)device).Profile = after;
    }

    public override string? PlaceOf(Device device) => "hook of " + device.Name;

    protected override async ValueTask<Device> ActivateAsync(FunctionProfile profile, CancellationToken cancellationToken)
    {
        await OnActivate(profile, cancellationToken);
        var thing = await fabric.RegisterAsync(new Thing(profile, parent));
        Made.Add(thing);
        return thing;
    }

    protected override async ValueTask DeactivateAsync(FunctionProfile profile, Device device)
    {
        await OnDeactivate(profile);
        await fabric.UnregisterAsync(device);
        Made.Remove((Thing)device);
    }
}

internal sealed class Thing(FunctionProfile profile, Device parent) : Device(profile.Name, parent), IUserHeld
{
    public FunctionProfile Profile { get; set; } = profile;

    public bool IsHeld { get; set; }
}
