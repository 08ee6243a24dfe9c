using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>
/// A function that was defined, and how far it is. The engine changes it; reads wait for nobody and see one moment.
/// </summary>
public sealed class ProvisionedFunction
{
    private volatile Moment _now;

    internal ProvisionedFunction(string name, string kind, string? parent, long order, bool isKept)
    {
        Name = name;
        Kind = kind;
        Parent = parent;
        Order = order;
        IsKept = isKept;
        _now = new Moment(null, null, null, Work.None, false, null);
    }

    internal enum Work
    {
        None,
        Activating,
        Changing,
        Draining,
    }

    /// <summary>The name by which people know it.</summary>
    public string Name { get; }

    /// <summary>The kind, as its provider calls it.</summary>
    public string Kind { get; }

    /// <summary>The lasting name of what it hangs at; null for nothing.</summary>
    public string? Parent { get; }

    /// <summary>Whether the definition lasts over the end of the program.</summary>
    public bool IsKept { get; }

    /// <summary>What it is to be; null while its provider is not there and never was: nobody can say then what the values mean.</summary>
    public FunctionProfile? Profile => _now.Profile;

    /// <summary>The values that were set, as text; also while nobody can say what they mean.</summary>
    public IReadOnlyDictionary<string, string> Values => _now.Profile is { } profile ? profile.Values.ToDictionary() : RawValues;

    /// <summary>Whether it was active, is not, and is to be again.</summary>
    public bool IsAwaited => _now is { IsWanted: true } now && Find(now) is null;

    /// <summary>Whether its provider is there.</summary>
    public bool HasProvider => _now.Provider is not null;

    /// <summary>Why its provider refused the definition when it came, or why it could not be made again; null for neither.</summary>
    public string? Problem => Refusal ?? _now.Failure;

    /// <summary>That nothing is there that makes it, though it was active and is to be again; null otherwise.</summary>
    public string? Setback => _now is { Provider: null, IsWanted: true } ? $"{Parent ?? "What it is made by"} has no driver that makes {Kind} functions now." : null;

    /// <summary>
    /// Where it is or was last, as its provider calls it; null when it has no place of its own. While it is <see cref="IsAwaited"/> the place is kept
    /// for it: a provider that chooses one for another function leaves it free.
    /// </summary>
    public string? Place => _now.Place;

    /// <summary>The device that stands for it while it is active.</summary>
    public Device? Device => Find(_now);

    /// <summary>How far it is.</summary>
    public FunctionState State
    {
        get
        {
            var now = _now;
            if (now.Work == Work.Draining)
                return FunctionState.Draining;
            if (Find(now) is { } device)
                return IsHeld(device) ? FunctionState.InUse : FunctionState.Active;
            if (now.IsWanted)
            {
                return now.Work == Work.Activating ? FunctionState.Coming
                    : now.Failure is null ? FunctionState.Gone
                    : FunctionState.Failed;
            }

            return now is { Profile: { } profile, Provider: var provider } && (provider is null ? profile.IsWhole : !provider.FindMissing(profile).Any())
                ? FunctionState.Configured
                : FunctionState.Defined;
        }
    }

    /// <summary>How far it is, as people read it: "in use" for <see cref="FunctionState.InUse"/>.</summary>
    public string StateName => State is var state && state == FunctionState.InUse ? "in use" : state.ToString().ToLowerInvariant();

    /// <summary>What each of its attributes is, also those that nobody set, as text, in the order of the kind; nothing while its provider is not there.</summary>
    public IEnumerable<KeyValuePair<string, string>> Describe()
    {
        if (_now is not { Provider: { } provider, Profile: { } profile })
            yield break;
        foreach (var field in provider.Fields)
        {
            if ((profile.Text(field) ?? provider.DescribeStandard(profile, field)) is { } text)
                yield return KeyValuePair.Create(field.Name, text);
        }
    }

    internal long Order { get; }

    /// <summary>Its state as a whole, replaced as a whole.</summary>
    internal Moment Now
    {
        get => _now;
        set => _now = value;
    }

    /// <summary>It was active, and what makes it does not take it yet.</summary>
    internal bool IsWantedWhenTaken { get; set; }

    /// <summary>Why its provider refused the definition when it came; null when it did not.</summary>
    internal string? Refusal { get; private set; }

    /// <summary>What is set but could not be understood yet.</summary>
    internal IReadOnlyDictionary<string, string> RawValues { get; set; } = new Dictionary<string, string>();

    /// <summary>Ends what is being done, when it can be ended; completes with it.</summary>
    internal CancellationTokenSource? Cancel { get; set; }

    internal TaskCompletionSource? Done { get; set; }

    /// <summary>Its provider was removed while something was done with it: what is made for it goes with the provider.</summary>
    internal bool IsLost { get; private set; }

    /// <summary>It was to return while something was done with it: it does when that has ended and it is missing still.</summary>
    internal bool IsPassedOver { get; set; }

    /// <summary>Nobody defines it any more.</summary>
    internal bool IsForgotten { get; set; }

    /// <summary>The store could not take back or note what it has of it, and is told at the next occasion.</summary>
    internal bool IsBehind { get; set; }

    /// <summary>Nothing is being done with it.</summary>
    internal bool IsIdle => Now.Work == Work.None;

    /// <summary>It was active and is not, and nobody does anything about that yet.</summary>
    internal bool IsMissing => !IsForgotten && IsIdle && Now.IsWanted && !IsActive;

    internal bool IsActive => Device is not null;

    /// <summary>Each ends when one who has it open has let go.</summary>
    internal IEnumerable<Task> UsersLeft => Device is { } device ? Below(device).OfType<IUserHeld>().Select(static d => d.Left) : [];

    /// <inheritdoc/>
    public override string ToString() => Name;

    internal StoredDefinition ToStored(Moment next) =>
        new(Name, Kind, Parent, next.Profile is { } profile ? profile.Values.ToDictionary() : RawValues, next.IsWanted, next.Place, Order);

    internal void ThrowIfBusy()
    {
        var what = Now.Work switch
        {
            Work.Activating => "being activated",
            Work.Changing => "being changed",
            Work.Draining => "being deactivated, and waits for who has it",
            _ => null,
        };
        if (what is not null)
            throw new VirtbusException(Errno.EBUSY, $"Function '{Name}' is {what}. Try again when that has ended.");
    }

    /// <summary>Who makes it and what it is to be.</summary>
    /// <exception cref="VirtbusException">EBUSY, EINVAL, ENODEV: not now.</exception>
    internal (FunctionProvider Provider, FunctionProfile Profile) Ready()
    {
        ThrowIfBusy();
        if (Refusal is { } refusal)
            throw new VirtbusException(Errno.EINVAL, $"The definition of function '{Name}' is not one that its provider takes: {refusal} Undefine it, and define it again.");
        return Now is { Provider: { } provider, Profile: { } profile }
            ? (provider, profile)
            : throw new VirtbusException(
                Errno.ENODEV, $"Nothing makes function '{Name}' now: {Parent ?? "what it is made by"} has no driver that makes {Kind} functions. Bind one first.");
    }

    internal void ThrowUnlessReady()
    {
        var (provider, profile) = Ready();
        if (IsActive)
            throw new VirtbusException(Errno.EBUSY, $"Function '{Name}' is active already, as {Device?.Name}.");
        if (provider.FindMissing(profile).ToList() is { Count: > 0 } missing)
        {
            // What the first word is that a user can write: one of several, for some kinds.
            var first = missing[0].Split(' ', ',').First(w => provider.Fields.Any(f => f.Name == w));
            throw new VirtbusException(
                Errno.EINVAL, $"Function '{Name}' can't be activated: {string.Join(" and ", missing)} has to be set first. Write for example: virtbus function set {Name} {first}=…");
        }
    }

    // What follows is called under the engine's lock.

    internal void Begin(Work work)
    {
        IsWantedWhenTaken = false;
        Now = Now with { Work = work, Failure = null };
        (IsLost, IsPassedOver) = (false, false);
        Done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
    }

    internal void End()
    {
        Now = Now with { Work = Work.None };
        Cancel = null;
        Done?.SetResult();
        Done = null;
    }

    /// <summary>Its provider is there no more.</summary>
    internal void Lose()
    {
        Now = Now with { Provider = null, Failure = null };
        IsLost = Now.Work != Work.None;
    }

    /// <summary>The values are understood from now on, or it is known why not.</summary>
    internal void Adopt(FunctionProvider provider)
    {
        var profile = Now.Profile;
        var isWanted = Now.IsWanted || IsWantedWhenTaken;
        Refusal = null;
        try
        {
            if (profile is null)
            {
                profile = FunctionProfile.Parse(Kind, Name, provider.Fields, RawValues);
                provider.Check(profile);
            }
        }
        catch (VirtbusException e)
        {
            profile = null;
            Refusal = e.Message;
        }

        IsWantedWhenTaken = isWanted && profile is null;
        Now = Now with { Provider = provider, Profile = profile, IsWanted = isWanted && profile is not null, Failure = null };
    }

    private static Device? Find(Moment now) =>
        now is { Provider: not null, Profile: not null, Device: not null } ? now.Provider.Find(now.Profile, now.Device) : null;

    private static bool IsHeld(Device device) => Below(device).Any(static d => d is IUserHeld { IsHeld: true });

    private static IEnumerable<Device> Below(Device device) => device.Children.SelectMany(Below).Prepend(device);

    internal sealed record Moment(FunctionProvider? Provider, FunctionProfile? Profile, Device? Device, Work Work, bool IsWanted, string? Place, string? Failure = null);
}
