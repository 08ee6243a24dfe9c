using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// A device of a fabric. Its life is that of a Linux device: made (initialized, one reference held by the creator), added to a fabric,
/// deleted, and released when the last reference is gone. A creator embeds what it wants to hand to a driver by deriving from a bus's
/// device type; there is no untyped payload.
/// </summary>
/// <remarks>
/// Name, parent, bus and class are fixed at creation. After a failed <see cref="Fabric.AddAsync"/> the only thing to do is to drop the
/// reference (<see cref="Put"/>). All members are safe to call from any thread unless they say otherwise.
/// </remarks>
public class Device : IDeviceIdentity
{
    private static readonly System.Buffers.SearchValues<char> NotInNames =
        System.Buffers.SearchValues.Create([.. Enumerable.Range(0, 32).Select(c => (char)c), '\u007f', '/']);

    private int _references = 1;
    private object? _driverData;
    private volatile bool _isReleasing;

    /// <summary>Initializes a device; the caller holds its first reference.</summary>
    /// <param name="name">Unique under its parent and on its bus or class; 1 to 255 bytes without '/' and control characters.</param>
    /// <param name="parent">The device that this one was cut from, or null for a device at the root.</param>
    /// <param name="bus">The bus that matches it to drivers, or null.</param>
    /// <param name="class">The class that it belongs to, or null.</param>
    /// <exception cref="VirtbusException">EINVAL: the name is not one that a directory can have.</exception>
    public Device(string name, Device? parent = null, Bus? bus = null, Class? @class = null)
    {
        ArgumentNullException.ThrowIfNull(name);
        if (!IsFileName(name))
            throw new VirtbusException(Errno.EINVAL, $"Device name '{name}' is not valid. Use 1 to 255 bytes without '/' and control characters.");
        Name = name;
        NameHash = StringComparer.Ordinal.GetHashCode(name);
        Parent = parent;
        Bus = bus;
        Class = @class;
    }

    /// <summary>The device's one name.</summary>
    public string Name { get; }

    /// <summary>
    /// What people call the device, when its name is its place or a number; shown as the attribute <c>label</c> (Linux: what firmware calls a
    /// slot or an onboard device). Null when they have no other word for it.
    /// </summary>
    public virtual string? Label => null;

    /// <summary>The device that this one was cut from.</summary>
    public Device? Parent { get; }

    /// <summary>The bus that matches this device to drivers.</summary>
    public Bus? Bus { get; }

    /// <summary>The class that this device belongs to.</summary>
    public Class? Class { get; }

    /// <summary>The fabric that the device was added to; null before.</summary>
    public Fabric? Fabric { get; internal set; }

    /// <summary>How far the device is in its life.</summary>
    public DeviceState State { get; internal set; }

    /// <summary>State and driver at this moment, taken in one read.</summary>
    public Binding Binding { get; internal set; } = Binding.Unbound;

    /// <summary>The bound driver, or null.</summary>
    public Driver? Driver => Binding is { State: BindingState.Bound, Driver: var driver } ? driver : null;

    /// <summary>
    /// True from the moment that the hardware behind the device is known to be gone (surprise removal). Drivers stop touching it;
    /// register reads give all ones.
    /// </summary>
    public bool IsGone { get; internal set; }

    /// <summary>Why the last probe asked to be tried again, while the device waits for that; else null.</summary>
    public string? DeferredReason
    {
        get => _extras?.DeferredReason;
        internal set
        {
            if (value != DeferredReason)
                Extras.DeferredReason = value;
        }
    }

    /// <summary>What the driver said whose probe failed last, while no driver has the device; else null.</summary>
    public string? ProbeFailure
    {
        get => _extras?.ProbeFailure;
        internal set
        {
            if (value != ProbeFailure)
                Extras.ProbeFailure = value;
        }
    }

    /// <summary>Only a driver of this name may bind, whatever its table says; null when not set. Taking effect needs an unbind and a bind.</summary>
    public string? DriverOverride
    {
        get => _extras?.DriverOverride;
        internal set
        {
            if (value != DriverOverride)
                Extras.DriverOverride = value;
        }
    }

    /// <summary>The position in creation order, which power transitions follow; 0 before the device is added.</summary>
    public long Sequence { get; internal set; }

    /// <summary>What the driver registered while probing, released in reverse order when it is unbound or its probe fails.</summary>
    public DeviceResources Resources => LazyInitializer.EnsureInitialized(ref _resources, () => new DeviceResources(this));

    /// <summary>Power state of the device.</summary>
    public DevicePower Power => LazyInitializer.EnsureInitialized(ref Extras.Power, () => new DevicePower(this));

    /// <summary>True while system sleep has suspended the device. Unlike <see cref="Power"/> it costs no object.</summary>
    public bool IsSuspended => PowerState?.IsSuspended == true;

    /// <summary>Called when the last reference is gone, on the thread that dropped it; the creator frees ids and payload here.</summary>
    public Action<Device>? Release { get; init; }

    /// <summary>What the driver put on the device with <see cref="SetDriverData{T}"/>.</summary>
    /// <typeparam name="T">The type that was stored.</typeparam>
    /// <returns>The data, or null when there is none.</returns>
    /// <exception cref="InvalidCastException">Data of another type was stored: a bug of the driver.</exception>
    public T? GetDriverData<T>()
        where T : class => (T?)_driverData;

    /// <summary>Stores a driver's own state on the device. Cleared when the driver is unbound or its probe fails.</summary>
    /// <typeparam name="T">The type of the state.</typeparam>
    /// <param name="data">The state, or null to clear.</param>
    public void SetDriverData<T>(T? data)
        where T : class => _driverData = data;

    /// <summary>Takes a reference.</summary>
    /// <returns>This device.</returns>
    /// <exception cref="InvalidOperationException">The device was released.</exception>
    public Device Get()
    {
        // The count of a released device stays 0, so that a refused Get can't make a later Put release it again.
        for (var seen = References; seen > 0;)
        {
            var was = Interlocked.CompareExchange(ref _references, seen + 1, seen);
            if (was == seen)
                return this;
            seen = was;
        }
        throw new InvalidOperationException($"Device {Name} was released and can't be referenced.");
    }

    /// <summary>Drops a reference; the last one releases the device, exactly once.</summary>
    /// <exception cref="InvalidOperationException">More references were dropped than taken.</exception>
    public void Put()
    {
        int seen, was = References;
        do
        {
            seen = was;
            if (seen == 0)
                throw new InvalidOperationException($"Device {Name} has no reference left to drop.");
            was = Interlocked.CompareExchange(ref _references, seen - 1, seen);
        }
        while (was != seen);
        if (seen > 1)
            return;
        State = DeviceState.Released;
        _isReleasing = true;
        try
        {
            OnRelease();
            Release?.Invoke(this);
        }
        finally
        {
            _isReleasing = false;
            if (AddedOnce)
                Parent?.Put();
        }
    }

    /// <summary>Takes a reference that is given up by disposing it.</summary>
    public DeviceReference Hold() => new(this);

    /// <summary>
    /// Hands out what the device's creator shares with its driver, and detects a use after the delete: what is shared is valid from before the
    /// add until the device is out of the tree, its driver unbound and its resources released, and again in <see cref="Release"/>, where its
    /// creator ends it. A device type gives its payload by it: <c>public ICore Core => Shared(_core);</c>. In debug and release builds alike.
    /// </summary>
    /// <param name="payload">What is shared.</param>
    /// <param name="member">The member that gives it.</param>
    /// <typeparam name="T">The payload's type.</typeparam>
    /// <returns>The payload.</returns>
    /// <exception cref="ObjectDisposedException">The device was deleted: a bug of who kept it past the unbind of its driver.</exception>
    protected T Shared<T>(T payload, [System.Runtime.CompilerServices.CallerMemberName] string member = "")
    {
        ThrowIfOut(member);
        return payload;
    }

    internal void ThrowIfOut(string member)
    {
        if (IsOut && !_isReleasing)
            throw new ObjectDisposedException(Name, $"Device {Name} was deleted, so its {member} is not valid any more. Who uses it has kept it past the unbind of its driver: let go of it in RemoveAsync.");
    }

    /// <summary>Called when the last reference is gone, before <see cref="Release"/>.</summary>
    protected virtual void OnRelease()
    {
    }

    /// <summary>
    /// Called in the device's transition before it leaves the tree, while all about it still works: a device that somebody outside the fabric
    /// holds waits here until it is let go. Not called again for a device that is out. An error is logged; the device leaves all the same.
    /// </summary>
    protected internal virtual ValueTask OnLeavingAsync() => default;

    /// <summary>Called once <see cref="IsGone"/> was set, on the thread that found the hardware gone. It must not block.</summary>
    protected internal virtual void OnGone()
    {
    }

    /// <summary>Attributes that this kind of device has besides those of its bus and class. The descriptors are static and shared.</summary>
    protected internal virtual IReadOnlyList<AttributeGroup> AttributeGroups => [];

    /// <summary>Links in the device's directory that this kind of device has besides the core's, at the moment that someone looks.</summary>
    protected internal virtual IEnumerable<TreeLink> TreeLinks => [];

    /// <summary>
    /// Devices that have to go before this one though they do not hang below it (Linux: virtual functions). What this kind of device does
    /// not take out when it leaves stays; the core only refuses callbacks of theirs that would wait for themselves.
    /// </summary>
    protected internal virtual IReadOnlyList<Device> Dependents => [];

    /// <summary>Adds variables of this kind of device to its events.</summary>
    /// <param name="variables">The event's variables; add to them, and do not keep them: a later event has the object.</param>
    protected internal virtual void AddUeventVariables(UeventVariables variables)
    {
    }

    /// <summary>The children in creation order, at this moment.</summary>
    public IReadOnlyList<Device> Children => Below is { } below ? [.. below.Snapshot()] : [];

    /// <summary>The path below the tree's root, as Linux spells it: <c>/devices/…</c>.</summary>
    public string DevPath => string.Concat(Folder, "/", Place);

    // The directory that the device's place is in. A parent keeps its own path, so that its children share the one string.
    internal string Folder => Parent is null ? Class is null ? "/devices" : "/devices/virtual" : Parent.Extras.Path ??= Parent.DevPath;

    // A class device hangs in a directory of its class, so that names of several classes under one parent never meet.
    internal string Place => Class is not { IsShown: true } || Parent?.Class is not null ? Name : string.Concat(Class.Name, "/", Name);

    /// <summary>The subsystem that events and the <c>subsystem</c> link name: bus, else class.</summary>
    public string? Subsystem => Bus?.Name ?? Class?.Name;

    /// <summary>The alias by which a module that serves this device is found, or null.</summary>
    public string? Modalias => Bus?.GetModalias(this);

    /// <inheritdoc/>
    public override string ToString() => Name;

    internal static bool IsFileName(string name) =>
        name.Length is > 0 and <= 255 && name is not ("." or "..") && !name.AsSpan().ContainsAny(NotInNames) && System.Text.Encoding.UTF8.GetByteCount(name) <= 255;

    internal void ClearDriverData() => _driverData = null;

    internal int NameHash { get; }

    internal int References => Volatile.Read(ref _references);

    internal DeviceResources? ResourcesOrNull => _resources;

    internal ChildDirectory ChildDirectory => Below ?? LazyInitializer.EnsureInitialized(ref Extras.Children, () => new ChildDirectory(this));

    internal bool TryGetChild(string name, [System.Diagnostics.CodeAnalysis.NotNullWhen(true)] out Device? child)
    {
        child = null;
        return Below is { } below && below.TryGet(name, out child);
    }

    internal IEnumerable<Device> ChildrenNewestFirst => Below is { } below ? below.Snapshot().Reverse() : [];

    internal bool HasChildren => Below is { IsEmpty: false };

    /// <summary>The power state when somebody asked for it.</summary>
    internal DevicePower? PowerState => _extras?.Power;

    internal DeviceLinks? Links => _extras?.Links;

    internal DeviceExtras Extras => LazyInitializer.EnsureInitialized(ref _extras, static () => new DeviceExtras());

    private ChildDirectory? Below => _extras?.Children;

    private DeviceResources? _resources;
    private DeviceExtras? _extras;

    // The rest is guarded by the fabric's gate.
    internal bool AddedOnce;
    internal TransitionFrame? Holder;
    internal CancellationTokenSource? ProbeCancellation;
    internal List<TransitionWaiter>? Waiters => _extras?.Waiters;
    internal HashSet<Device>? PendingDescendants => _extras?.PendingDescendants;
    internal int Deletes;
    internal volatile bool IsOut;
    internal bool IsDeferred;
    internal bool IsRetryQueued;

    // A device is on one of two lists: its bus's unbound devices, or its driver's devices.
    internal DeviceList? List;
    internal int ListIndex;

    // Its place in the directory of its parent, or of the fabric.
    internal int ChildIndex;
}
