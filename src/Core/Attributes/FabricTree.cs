using System.Diagnostics.CodeAnalysis;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// Every object's attributes in one tree, with the names and the layout of Linux's sysfs: <c>devices/</c>, <c>bus/</c>, <c>class/</c>,
/// <c>module/</c>, <c>kernel/</c>. Nothing of it exists before someone looks. Everything that shows or changes the fabric goes through it.
/// </summary>
public sealed class FabricTree
{
    private const int MaxLinks = 40;
    private readonly Fabric _fabric;
    private TreeDirectory[] _extra = [];
    private TreeDirectory[] _kernel = [];
    private AttributeGroup[] _deviceGroups = [];
    private readonly EmptyFolders _folders = new();

    internal FabricTree(Fabric fabric)
    {
        _fabric = fabric;
        Root = _folders.Over(new TreeDirectory("", ListRoot), "");
    }

    /// <summary>
    /// Raised when an attribute was written, or changed by itself so that who polls its file is to read it again (Linux: sysfs_notify). On the thread that
    /// did it; a handler must not wait.
    /// </summary>
    public event EventHandler<AttributeChangedEventArgs>? AttributeChanged;

    /// <summary>The top of the tree.</summary>
    public TreeDirectory Root { get; }

    /// <summary>Finds what a path names. Links on the way are followed; a link at the end is followed when <paramref name="follow"/> is set.</summary>
    /// <param name="path">Names separated by '/', from the root; a leading '/' and '..' are allowed.</param>
    /// <param name="follow">Whether a link at the end is followed.</param>
    /// <exception cref="VirtbusException">ENOENT: nothing of that name; ENOTDIR: a file on the way; ELOOP: too many links.</exception>
    public TreeNode Find(string path, bool follow = true)
    {
        ArgumentNullException.ThrowIfNull(path);
        return Walk(path, follow, out _);
    }

    /// <summary>As <see cref="Find(string, bool)"/>, and says where it stands.</summary>
    /// <param name="path">The path.</param>
    /// <param name="follow">Whether a link at the end is followed.</param>
    /// <param name="place">The path of what was found itself, that leads through no link: what links in it are seen from.</param>
    public TreeNode Find(string path, bool follow, out string place)
    {
        ArgumentNullException.ThrowIfNull(path);
        return Walk(path, follow, out place);
    }

    /// <summary>Reads the attribute at a path.</summary>
    /// <param name="path">The path of a file.</param>
    /// <exception cref="VirtbusException">EISDIR: the path names a directory; see <see cref="Find(string, bool)"/> and <see cref="TreeFile.Read"/>.</exception>
    public string Read(string path) => FindFile(path).Read();

    /// <summary>Writes the attribute at a path.</summary>
    /// <param name="path">The path of a file.</param>
    /// <param name="value">The value.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="VirtbusException">EISDIR: the path names a directory; see <see cref="Find(string, bool)"/> and <see cref="TreeFile.WriteAsync"/>.</exception>
    public ValueTask WriteAsync(string path, string value, CancellationToken cancellationToken = default) =>
        WriteAsync(FindFile(path), value, cancellationToken);

    /// <summary>Writes an attribute that was found before, and tells who polls it.</summary>
    /// <param name="file">Its file.</param>
    /// <param name="value">The value.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="VirtbusException">See <see cref="TreeFile.WriteAsync"/>.</exception>
    public async ValueTask WriteAsync(TreeFile file, string value, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(file);
        await file.WriteAsync(value, cancellationToken);
        Notify(file.Owner, file.Name);
    }

    /// <summary>Tells who polls an attribute's file that its value is another one now.</summary>
    /// <param name="owner">The object whose attribute it is.</param>
    /// <param name="attribute">The file's name.</param>
    public void Notify(object owner, string attribute) => AttributeChanged?.Invoke(this, new AttributeChangedEventArgs(owner, attribute));

    /// <summary>Adds a directory below <c>/kernel</c>, for what belongs to no device, bus or class. It stays as long as the fabric.</summary>
    /// <param name="directory">The directory.</param>
    public void AddKernelDirectory(TreeDirectory directory)
    {
        ArgumentNullException.ThrowIfNull(directory);
        lock (_fabric.Gate)
            _kernel = [.. _kernel, directory];
    }

    /// <summary>
    /// Has a folder be there though nothing may be in it, since programs that look into Linux's tree take its absence for an error. They stay as long as the
    /// fabric; what comes to be of that name takes its place.
    /// </summary>
    /// <param name="path">Names separated by '/', from the root.</param>
    public void AddFolder(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        _folders.Add(path);
    }

    /// <summary>
    /// Adds attributes to devices of whatever kind, for what a subsystem has to say of them that its bus does not know. Each attribute's own
    /// visibility says which devices have it. They stay as long as the fabric.
    /// </summary>
    /// <param name="group">The attributes, of <see cref="Device"/>.</param>
    public void AddDeviceGroup(AttributeGroup group)
    {
        ArgumentNullException.ThrowIfNull(group);
        lock (_fabric.Gate)
            _deviceGroups = [.. _deviceGroups, group];
    }

    internal void RemoveKernelDirectory(TreeDirectory directory)
    {
        lock (_fabric.Gate)
            _kernel = [.. _kernel.Where(d => d != directory)];
    }

    internal void AddTop(TreeDirectory directory)
    {
        lock (_fabric.Gate)
            _extra = [.. _extra, directory];
    }

    internal void RemoveTop(TreeDirectory directory)
    {
        lock (_fabric.Gate)
            _extra = [.. _extra.Where(d => d != directory)];
    }

    private TreeFile FindFile(string path) => Find(path) switch
    {
        TreeFile file => file,
        _ => throw new VirtbusException(Errno.EISDIR, $"{path} is a directory. Name an attribute in it."),
    };

    // As the kernel walks: a link's target takes the link's place, so '..' behind it leads to the target's own directory.
    private TreeNode Walk(string path, bool follow, out string place)
    {
        var links = 0;
        var left = new Stack<string>(Names(path).Reverse());
        var above = new Stack<(string Name, TreeDirectory Directory)>();
        TreeNode node = Root;
        while (left.TryPop(out var name))
        {
            if (node is not TreeDirectory directory)
                throw new VirtbusException(Errno.ENOTDIR, $"{PathOf(above)} is not a directory, so it has no '{name}'.");
            if (name == ".")
                continue;
            if (name == "..")
            {
                node = above.TryPop(out var up) ? up.Directory : Root;
                continue;
            }
            var found = directory.Find(name)
                ?? throw new VirtbusException(Errno.ENOENT, $"'{name}' does not exist in {PathOf(above)}.{Suggestion.For(name, directory.List().Select(static n => n.Name))} Get that directory to list it.");
            if (found is TreeLink link && (follow || left.Count > 0))
            {
                if (++links > MaxLinks)
                    throw new VirtbusException(Errno.ELOOP, $"{path} leads through more than {MaxLinks} links.");
                foreach (var part in Names(link.Target).Reverse())
                    left.Push(part);
                above.Clear();
                node = Root;
                continue;
            }
            above.Push((name, directory));
            node = found;
        }
        place = PathOf(above);
        return node;
    }

    private static string[] Names(string path) => path.Split('/', StringSplitOptions.RemoveEmptyEntries);

    private static string PathOf(IEnumerable<(string Name, TreeDirectory Directory)> above) => "/" + string.Join('/', above.Reverse().Select(a => a.Name));

    private IEnumerable<TreeNode> ListRoot()
    {
        yield return new TreeDirectory("bus", () => _fabric.Buses.Select(BusDirectory), n => _fabric.TryGetBus(n, out var bus) ? BusDirectory(bus) : null);
        yield return new TreeDirectory("class", ListClasses);
        yield return new TreeDirectory("devices", ListDevices, FindRootDevice);
        yield return new TreeDirectory("kernel", ListKernel);
        foreach (var directory in _extra)
            yield return directory;
        yield return new TreeDirectory("power", () => [new TreeFile("/power/state", _fabric, SystemState)]);
    }

    private IEnumerable<TreeNode> ListKernel()
    {
        yield return new TreeFile("/kernel/uevent_seqnum", _fabric, UeventSeqnum);
        foreach (var node in _fabric.Buses.SelectMany(b => b.KernelNodes))
            yield return node;
        foreach (var directory in _kernel)
            yield return directory;
        yield return new TreeDirectory("debug", () => [new TreeFile("/kernel/debug/devices_deferred", _fabric, DevicesDeferred)]);
    }

    // Devices.
    private IEnumerable<TreeNode> ListDevices()
    {
        foreach (var device in _fabric.RootDevices)
        {
            if (device.Class is null)
                yield return DeviceDirectory(device);
        }
        if (FindRootDevice("virtual") is { } virtuals)
            yield return virtuals;
    }

    private TreeNode? FindRootDevice(string name)
    {
        if (_fabric.Roots.TryGet(name, out var device) && device.Class is null)
            return DeviceDirectory(device);
        if (name != "virtual" || !_fabric.RootDevices.Any(d => d.Class is not null))
            return null;
        return new TreeDirectory("virtual", () => _fabric.RootDevices
            .Where(d => d.Class is not null)
            .GroupBy(d => d.Class!)
            .Select(g => new TreeDirectory(g.Key.Name, () => g.Select(DeviceDirectory))));
    }

    private TreeDirectory DeviceDirectory(Device device) => new(device.Name, () => ListDevice(device), name => FindInDevice(device, name), device);

    // A device may have many children: looking one up must not list them all.
    private TreeNode? FindInDevice(Device device, string name) =>
        device.TryGetChild(name, out var child) && SharesDirectory(device, child) ? DeviceDirectory(child) : null;

    private static bool SharesDirectory(Device device, Device child) => child.Class is not { IsShown: true } || device.Class is not null;

    private IEnumerable<TreeNode> ListDevice(Device device)
    {
        var path = device.DevPath;
        yield return new TreeFile(path + "/uevent", device, DeviceUevent);
        if (device.Subsystem is { } subsystem && device.Class is not { IsShown: false })
            yield return new TreeLink("subsystem", (device.Bus is null ? "/class/" : "/bus/") + subsystem);
        if (device is { Parent: { } parent, Class.IsShown: true })
            yield return new TreeLink("device", parent.DevPath);
        if (device.Bus is { } bus)
        {
            if (device.Driver is { } driver)
                yield return new TreeLink("driver", Fabric.DriverPath(driver));
            if (bus.HasDriverOverride)
            {
                yield return new TreeFile(path + "/driver_override", device, DriverOverride);
                yield return new TreeFile(path + "/driver_override_bind", device, DriverOverrideBind);
            }
            if (device.Modalias is not null)
                yield return new TreeFile(path + "/modalias", device, Modalias);
            yield return new TreeFile(path + "/waiting_for_supplier", device, WaitingForSupplier);
        }
        if (device.Label is not null)
            yield return new TreeFile(path + "/label", device, DeviceLabel);
        foreach (var link in device.TreeLinks)
            yield return link;
        foreach (var link in device.Links?.Suppliers ?? [])
            yield return new TreeLink("supplier:" + DeviceLink.Label(link.Supplier), "/class/devlink/" + link.Name);
        foreach (var link in device.Links?.Consumers ?? [])
            yield return new TreeLink("consumer:" + DeviceLink.Label(link.Consumer), "/class/devlink/" + link.Name);
        yield return new TreeDirectory("power", () => PowerFiles.Select(a => new TreeFile($"{path}/power/{a.Name}", device, a)), owner: device);
        foreach (var node in ListGroups(path, device, [
            .. device.Class?.DeviceAttributeGroups ?? [],
            .. device.Bus?.DeviceAttributeGroups ?? [],
            .. device.AttributeGroups,
            .. device.Driver?.DeviceAttributeGroups ?? [],
            .. _deviceGroups]))
        {
            yield return node;
        }
        var children = device.Children;
        foreach (var group in children.Where(c => !SharesDirectory(device, c)).GroupBy(c => c.Class!))
            yield return new TreeDirectory(group.Key.Name, () => group.Select(DeviceDirectory));
        foreach (var child in children.Where(c => SharesDirectory(device, c)))
            yield return DeviceDirectory(child);
    }

    private static IEnumerable<TreeNode> ListGroups(string path, object owner, IEnumerable<AttributeGroup> groups)
    {
        foreach (var group in groups)
        {
            if (group.Name is not { } name)
            {
                foreach (var attribute in group.List(owner))
                    yield return new TreeFile($"{path}/{attribute.Name}", owner, attribute);
            }
            else if (group.PartsOf(owner) is { } parts)
            {
                if (parts.Any())
                {
                    yield return new TreeDirectory(name, () => parts.Select(p => new TreeDirectory(
                        p.Name, () => group.List(p.Owner).Select(a => new TreeFile($"{path}/{name}/{p.Name}/{a.Name}", p.Owner, a)))), owner: owner);
                }
            }
            else if (!group.IsHiddenWhenEmpty || group.List(owner).Any())
            {
                yield return new TreeDirectory(name, () => group.List(owner).Select(a => new TreeFile($"{path}/{name}/{a.Name}", owner, a)), owner: owner);
            }
        }
    }

    // Buses and drivers.
    private TreeDirectory BusDirectory(Bus bus) => new(bus.Name, () => ListBus(bus), owner: bus);

    private IEnumerable<TreeNode> ListBus(Bus bus)
    {
        var path = "/bus/" + bus.Name;
        yield return new TreeDirectory(
            "devices",
            () => bus.Devices.Select(d => new TreeLink(d.Name, d.DevPath)),
            name => bus.TryGetDevice(name, out var device) ? new TreeLink(name, device.DevPath) : null);
        yield return new TreeDirectory(
            "drivers",
            () => bus.Drivers.Select(DriverDirectory),
            name => bus.TryGetDriver(name, out var driver) ? DriverDirectory(driver) : null);
        yield return new TreeFile(path + "/drivers_autoprobe", bus, DriversAutoprobe);
        yield return new TreeFile(path + "/drivers_probe", bus, DriversProbe);
        yield return new TreeFile(path + "/uevent", bus, BusUevent);
        foreach (var node in ListGroups(path, bus, bus.AttributeGroups))
            yield return node;
    }

    private TreeDirectory DriverDirectory(Driver driver) => new(driver.Name, () => ListDriver(driver), owner: driver);

    private IEnumerable<TreeNode> ListDriver(Driver driver)
    {
        var path = Fabric.DriverPath(driver);
        if (!driver.SuppressBindAttributes)
        {
            yield return new TreeFile(path + "/bind", driver, Bind);
            yield return new TreeFile(path + "/unbind", driver, Unbind);
        }
        yield return new TreeFile(path + "/uevent", driver, DriverUevent);
        if (driver.Module is { } module)
            yield return new TreeLink("module", "/module/" + module);
        foreach (var node in ListGroups(path, driver, [.. driver.Bus.DriverAttributeGroups, .. driver.AttributeGroups]))
            yield return node;
        foreach (var device in driver.Devices)
            yield return new TreeLink(device.Name, device.DevPath);
    }

    // Classes.
    private IEnumerable<TreeNode> ListClasses()
    {
        foreach (var @class in _fabric.Classes.Where(static c => c.IsShown))
        {
            yield return new TreeDirectory(
                @class.Name,
                () => @class.Devices.Select(d => new TreeLink(d.Name, d.DevPath)),
                n => @class.TryGetDevice(n, out var device) ? new TreeLink(n, device.DevPath) : null,
                @class);
        }
        yield return new TreeDirectory("devlink", () => _fabric.Links.Select(l => new TreeDirectory(l.Name, () => ListLink(l))));
    }

    private static IEnumerable<TreeNode> ListLink(DeviceLink link)
    {
        foreach (var attribute in LinkFiles)
            yield return new TreeFile($"/class/devlink/{link.Name}/{attribute.Name}", link, attribute);
        yield return new TreeLink("consumer", link.Consumer.DevPath);
        yield return new TreeLink("supplier", link.Supplier.DevPath);
    }

    // Attributes that every object of a kind has.
    private static readonly ObjectAttribute<Fabric> UeventSeqnum = new("uevent_seqnum", f => $"{f.Uevents.Seqnum}");

    private static readonly ObjectAttribute<Fabric> DevicesDeferred = new(
        "devices_deferred",
        f => string.Concat(f.DeferredDevices.Select(d => $"{d.Name}\t{d.DeferredReason}\n")));

    private static readonly ObjectAttribute<Fabric> SystemState = new(
        "state",
        _ => "mem on",
        (f, value, _) => value switch
        {
            "mem" => f.SuspendAsync(),
            "on" => f.ResumeAsync(),
            _ => throw new VirtbusException(Errno.EINVAL, $"/power/state: '{value}' is not a state. Write mem to suspend or on to resume."),
        });

    private static readonly ObjectAttribute<Device> DeviceUevent = new(
        "uevent",
        d => string.Concat(d.Fabric!.VariablesOf(d).ToArray().Select(p => $"{p.Key}={p.Value}\n")),
        (d, value, _) =>
        {
            SyntheticUevent(value, d.DevPath, (action, more) => d.Fabric!.EmitUevent(d, action, more));
            return default;
        });

    private static readonly ObjectAttribute<Bus> BusUevent = new("uevent", null, (b, value, _) =>
    {
        SyntheticUevent(value, "/bus/" + b.Name, (action, more) => b.Fabric!.Uevents.Emit(action, "/bus", b.Name, "bus", ToVariables(more)));
        return default;
    });

    private static readonly ObjectAttribute<Driver> DriverUevent = new("uevent", null, (d, value, _) =>
    {
        SyntheticUevent(value, Fabric.DriverPath(d), (action, more) => d.Bus.Fabric!.Uevents.Emit(action, Fabric.DriverFolder(d), d.Name, "drivers", ToVariables(more)));
        return default;
    });

    private static readonly ObjectAttribute<Device> DriverOverride = new(
        "driver_override",
        d => d.DriverOverride ?? "(null)",
        (d, value, _) =>
        {
            d.Fabric!.SetDriverOverride(d, value);
            return default;
        },
        isString: true);

    // The kernel has no such file: there, three writes of a tool (driverctl) do it, and what comes between them may spoil it.
    private static readonly ObjectAttribute<Device> DriverOverrideBind = new(
        "driver_override_bind",
        null,
        (d, value, _) => d.Fabric!.OverrideDriverAsync(d, value),
        isString: true);

    private static readonly ObjectAttribute<Device> DeviceLabel = new("label", d => d.Label ?? "");

    private static readonly ObjectAttribute<Device> Modalias = new("modalias", d => d.Modalias ?? "");

    private static readonly ObjectAttribute<Device> WaitingForSupplier = new(
        "waiting_for_supplier",
        d => d.Links?.Suppliers.Any(l => l is { IsManaged: true, Supplier: { Bus: not null, Driver: null } }) == true ? "1" : "0");

    private static readonly ObjectAttribute<Bus> DriversAutoprobe = new(
        "drivers_autoprobe",
        b => b.DriversAutoprobe ? "1" : "0",
        (b, value, _) =>
        {
            b.DriversAutoprobe = AttributeValue.ParseBoolean($"/bus/{b.Name}/drivers_autoprobe", value);
            return default;
        });

    private static readonly ObjectAttribute<Bus> DriversProbe = new("drivers_probe", null, (b, value, _) => b.Fabric!.ProbeAsync(b, value));

    private static readonly ObjectAttribute<Driver> Bind = new("bind", null, (d, value, _) => d.Bus.Fabric!.BindAsync(d, value));

    private static readonly ObjectAttribute<Driver> Unbind = new("unbind", null, (d, value, _) => d.Bus.Fabric!.UnbindAsync(d, value));

    private static readonly ObjectAttribute<Device>[] PowerFiles =
    [
        new(
            "control",
            d => d.PowerState?.IsRuntimeForbidden == true ? "on" : "auto",
            (d, value, _) => value switch
            {
                "auto" => d.Power.AllowRuntimeAsync(true),
                "on" => d.Power.AllowRuntimeAsync(false),
                _ => throw new VirtbusException(Errno.EINVAL, $"{d.DevPath}/power/control: '{value}' is not a mode. Write auto or on."),
            }),
        new("runtime_active_kids", d => $"{d.PowerState?.RuntimeActiveChildren ?? 0}"),
        new("runtime_active_time", d => $"{(long)(d.PowerState?.RuntimeActiveTime ?? default).TotalMilliseconds}"),
        new("runtime_status", d => (d.PowerState?.RuntimeStatus ?? RuntimeStatus.Unsupported).ToString().ToLowerInvariant()),
        new("runtime_suspended_time", d => $"{(long)(d.PowerState?.RuntimeSuspendedTime ?? default).TotalMilliseconds}"),
        new("runtime_usage", d => $"{d.PowerState?.RuntimeUsage ?? 0}"),
        new(
            "state",
            d => d.PowerState?.IsSuspended == true ? "suspended" : "on",
            (d, value, _) => value switch
            {
                "suspend" or "suspended" => d.Fabric!.SuspendAsync(d),
                "on" or "resume" => d.Fabric!.ResumeAsync(d),
                _ => throw new VirtbusException(Errno.EINVAL, $"{d.DevPath}/power/state: '{value}' is not a state. Write suspend or on."),
            }),
    ];

    private static readonly ObjectAttribute<DeviceLink>[] LinkFiles =
    [
        new("auto_remove_on", l => l.Flags.HasFlag(DeviceLinkFlags.AutoremoveSupplier) ? "supplier unbind"
            : l.Flags.HasFlag(DeviceLinkFlags.AutoremoveConsumer) ? "consumer unbind" : "never"),
        new("runtime_pm", l => l.Flags.HasFlag(DeviceLinkFlags.PmRuntime) ? "1" : "0"),
        new("status", l => l.Status),
    ];

    // "ACTION [UUID [KEY=VALUE ...]]" with one blank between two, as the kernel takes it: a blank promises that something follows.
    private static void SyntheticUevent(string value, string path, Action<UeventAction, KeyValuePair<string, string>[]> emit)
    {
        var end = value.IndexOf(' ');
        if (!TryParseAction(end < 0 ? value : value[..end], out var action))
            throw new VirtbusException(Errno.EINVAL, $"{path}/uevent: '{value}' does not begin with an action. Write add, remove, change, move, online, offline, bind or unbind.");
        if (end < 0)
        {
            emit(action, [new("SYNTH_UUID", "0")]);
            return;
        }
        var words = value[(end + 1)..].Split(' ');
        if (!IsUuid(words[0]))
            throw new VirtbusException(Errno.EINVAL, $"{path}/uevent: '{words[0]}' is not a UUID. After one blank, write 36 characters such as 12345678-9abc-def0-1234-56789abcdef0.");
        var variables = new List<KeyValuePair<string, string>> { new("SYNTH_UUID", words[0]) };
        foreach (var word in words.Skip(1))
        {
            if (word.Split('=') is not [var key, var argument] || !IsWord(key) || !IsWord(argument))
                throw new VirtbusException(Errno.EINVAL, $"{path}/uevent: '{word}' is not KEY=VALUE of letters and digits. Write one blank before each pair, and none at the end.");
            variables.Add(new("SYNTH_ARG_" + key, argument));
        }
        ThrowIfTooMany(variables, path);
        emit(action, [.. variables]);
    }

    // The kernel collects the arguments in an environment of their own first, and a full one is a wrong request.
    private static void ThrowIfTooMany(List<KeyValuePair<string, string>> arguments, string path)
    {
        try
        {
            ToVariables([.. arguments]);
        }
        catch (VirtbusException e)
        {
            throw new VirtbusException(Errno.EINVAL, $"{path}/uevent: {e.Message} Write fewer pairs.", e);
        }
    }

    private static bool IsUuid(string text) =>
        text.Length == 36 && text.Select((c, i) => i is 8 or 13 or 18 or 23 ? c == '-' : char.IsAsciiHexDigit(c)).All(static right => right);

    private static bool IsWord(string text) => text.Length > 0 && text.All(char.IsAsciiLetterOrDigit);

    private static bool TryParseAction(string word, [NotNullWhen(true)] out UeventAction action)
    {
        var index = Array.IndexOf(Uevent.ActionNames, word);
        action = (UeventAction)Math.Max(index, 0);
        return index >= 0;
    }

    private static UeventVariables ToVariables(KeyValuePair<string, string>[] pairs)
    {
        var variables = new UeventVariables();
        foreach (var (key, value) in pairs)
            variables.Add(key, value);
        return variables;
    }
}
