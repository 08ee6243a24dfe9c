using Virtbus.Core;

namespace Virtbus.Provisioning;

/// <summary>
/// Makes functions of one kind at one parent: virtual functions of an adapter, vDPA devices of a management device. It declares what a profile may
/// say, carries profiles out, and decides what the life cycle of its functions is. A driver adds one while it is bound
/// (<see cref="ProvisioningEngine.AddProvider"/>).
/// </summary>
/// <remarks>
/// The engine calls it for one activation, change or deactivation of a function at a time, for several functions side by side. It holds no lock
/// meanwhile. A provider that goes is removed first (<see cref="ProvisioningEngine.RemoveProvider"/>), and takes down what it made and what it is
/// just making by itself; it, or another one of its kind and parent, is added when that has ended: what is there then is active, and does not return.
/// </remarks>
public abstract class FunctionProvider
{
    /// <summary>The kind of function, one lower-case word: vf, vdpa, disk.</summary>
    public abstract string Kind { get; }

    /// <summary>The names by which a definition may name the parent, the lasting one first; none when functions of the kind hang at nothing.</summary>
    public abstract IReadOnlyList<string> Parents { get; }

    /// <summary>What a profile may say, in the order in which it is shown. Static.</summary>
    public abstract IReadOnlyList<ProfileField> Fields { get; }

    /// <summary>Whether functions that were active when the provider went are activated when it is back.</summary>
    public virtual bool Returns => false;

    /// <summary>Whether its functions come and go as one set: those that return are asked for in one call.</summary>
    public virtual bool ComesTogether => false;

    /// <summary>Refuses a profile whose values are right by themselves and not together. Changes nothing; asked at each definition and change.</summary>
    /// <param name="profile">The profile; what has to be set need not be yet.</param>
    /// <exception cref="Platform.VirtbusException">EINVAL, EOPNOTSUPP, with the remedy.</exception>
    public virtual void Check(FunctionProfile profile)
    {
    }

    /// <summary>What has to be set before a profile can be activated and is not, each in words.</summary>
    /// <param name="profile">The profile.</param>
    /// <returns>Names with what to write, for a sentence; the required attributes of <see cref="Fields"/> when it is left as it is.</returns>
    public virtual IEnumerable<string> FindMissing(FunctionProfile profile)
    {
        ArgumentNullException.ThrowIfNull(profile);
        return Fields.Where(f => f.IsRequired && !profile.IsSet(f)).Select(static f => $"{f.Name} ({f.Description})");
    }

    /// <summary>Makes functions as their profiles say, all or none; they are visible when it returns, and their drivers' probes found them finished (PV-02).</summary>
    /// <param name="profiles">Whole profiles, in the order asked for.</param>
    /// <param name="cancellationToken">Cancelled when somebody deactivates one meanwhile.</param>
    /// <returns>The devices, in the same order.</returns>
    /// <exception cref="Platform.VirtbusException">Nothing is left behind.</exception>
    public abstract ValueTask<IReadOnlyList<Device>> ActivateAsync(IReadOnlyList<FunctionProfile> profiles, CancellationToken cancellationToken);

    /// <summary>Refuses a deactivation that can't be as it is asked for, before anything of it is done. Changes nothing, and waits for nobody.</summary>
    /// <param name="functions">All functions of this provider that are to be deactivated.</param>
    /// <exception cref="Platform.VirtbusException">With the remedy.</exception>
    public virtual void CheckDeactivation(IReadOnlyList<(FunctionProfile Profile, Device Device)> functions)
    {
    }

    /// <summary>Takes functions away in order, the last one first; waits for who has one open.</summary>
    /// <param name="functions">The functions as they were activated.</param>
    /// <exception cref="Platform.VirtbusException">Those that are there still are so afterwards.</exception>
    public abstract ValueTask DeactivateAsync(IReadOnlyList<(FunctionProfile Profile, Device Device)> functions);

    /// <summary>Carries a change of attributes out that may change while the function is active. Refused, all stays as it was.</summary>
    /// <param name="before">What it is.</param>
    /// <param name="after">What it is to be.</param>
    /// <param name="device">The function's device.</param>
    public virtual ValueTask ChangeAsync(FunctionProfile before, FunctionProfile after, Device device) => default;

    /// <summary>Whether a function that was activated is there still, whatever became of its first device.</summary>
    /// <param name="profile">Its profile.</param>
    /// <param name="device">The device that it had.</param>
    /// <returns>The device that stands for it now; null when it is gone.</returns>
    public virtual Device? Find(FunctionProfile profile, Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return device.State == DeviceState.Added ? device : null;
    }

    /// <summary>What an attribute is that a profile does not set, as text; null when nothing can be said.</summary>
    /// <param name="profile">The profile.</param>
    /// <param name="field">One of <see cref="Fields"/>.</param>
    public virtual string? DescribeStandard(FunctionProfile profile, ProfileField field)
    {
        ArgumentNullException.ThrowIfNull(field);
        return field.DefaultText;
    }

    /// <summary>
    /// A function that is gone is not to come back any more, or its definition is forgotten: what was kept for its return goes. Also called for functions
    /// of which nothing is kept; no other call for the function is under way.
    /// </summary>
    /// <param name="name">The function's name.</param>
    public virtual void Forget(string name)
    {
    }

    /// <summary>
    /// Where a function is, so that it can come to the same place again after the program ended; null when it has no place of its own. Who chooses places
    /// leaves those of functions free that are awaited (<see cref="ProvisionedFunction.Place"/>).
    /// </summary>
    /// <param name="device">Its device.</param>
    public virtual string? PlaceOf(Device device) => null;
}
