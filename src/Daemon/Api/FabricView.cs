using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Daemon.Api;

/// <summary>What the control interface says of a fabric's objects at one moment. Reads only, and waits for nothing.</summary>
internal sealed class FabricView(Fabric fabric, ModuleLoader loader)
{
    private readonly ProvisioningEngine _engine = ProvisioningEngine.Of(fabric);

    public IReadOnlyList<DeviceAnswer> Tree() => [.. fabric.RootDevices.Select(d => Describe(d, withChildren: true))];

    public IReadOnlyList<DeviceAnswer> Devices() => [.. fabric.AllDevices.Select(d => Describe(d))];

    public IReadOnlyList<BusAnswer> Buses() => [.. fabric.Buses.Select(b => new BusAnswer(b.Name, b.DeviceCount, b.Drivers.Count, b.DriversAutoprobe))];

    public IReadOnlyList<FunctionAnswer> Functions() => [.. _engine.Functions.Select(Describe)];

    public FunctionAnswer Function(string name) => Describe(_engine.Get(name));

    public IReadOnlyList<KindAnswer> Kinds() =>
        [.. _engine.Providers.Select(static p => new KindAnswer(p.Kind, p.Parents.Count > 0 ? p.Parents[0] : null, p.Fields.ToDictionary(static f => f.Name, static f => f.Describe())))];

    public IReadOnlyList<DriverAnswer> Drivers() =>
        [.. fabric.Buses.SelectMany(b => b.Drivers).Select(d => new DriverAnswer(d.Bus.Name, d.Name, $"/bus/{d.Bus.Name}/drivers/{d.Name}", d.Module, [.. d.Devices.Select(v => v.Name)]))];

    public IReadOnlyList<ModuleAnswer> Modules()
    {
        var loaded = loader.Loaded;
        var names = loaded.Select(l => l.Info.Name).ToHashSet();
        return
        [
            .. loaded.Select(Describe),
            .. loader.Index.Modules
                .Where(m => !names.Contains(m.Name))
                .OrderBy(m => m.Name, StringComparer.Ordinal)
                .Select(m => new ModuleAnswer(m.Name, "available", m.Description, m.Aliases, null, null, null, m.Path, null)),
            .. loader.Index.Skipped.Select(s => new ModuleAnswer(Path.GetFileNameWithoutExtension(s.Path), "skipped", null, null, null, null, null, s.Path, s.Reason)),
        ];
    }

    public static ModuleAnswer Describe(LoadedModule module) =>
        new(module.Info.Name, "loaded", module.Info.Description, module.Info.Aliases, module.Drivers, module.Holders, module.BoundDevices, module.Info.Path, null);

    private static FunctionAnswer Describe(ProvisionedFunction function) => new(
        function.Name,
        function.Kind,
        function.Parent,
        function.StateName,
        function.Device?.Name,
        function.IsKept,
        function.Describe().ToDictionary(),
        [.. (function.Profile?.Values ?? []).Select(static v => v.Key)],
        function.Problem ?? function.Setback);

    public static DeviceAnswer Describe(Device device, bool withChildren = false)
    {
        var binding = device.Binding;
        var deferred = device.DeferredReason;
        var state = device switch
        {
            { IsGone: true } => "gone",
            { Bus: null } => null,
            _ when deferred is not null && binding.State == BindingState.Unbound => "deferred",
            _ => binding.State.ToString().ToLowerInvariant(),
        };
        return new DeviceAnswer(
            device.Name,
            device.DevPath,
            device.Bus?.Name,
            device.Class?.Name,
            state,
            binding.Driver?.Name,
            binding.Driver?.Module,
            device.Modalias,
            deferred,
            device.IsSuspended ? "suspended" : "on",
            LabelOf(device),
            withChildren ? [.. device.Children.Select(c => Describe(c, withChildren: true))] : null);
    }

    // What a class shows of a device has a word of its own for the same thing, which is no second name for it.
    private static string? LabelOf(Device device) => device.Class is null ? device.Label : null;

    /// <summary>Finds the one device that a person means: a name, <c>bus:name</c>, <c>class:name</c>, or a path below <c>/devices</c>.</summary>
    /// <exception cref="VirtbusException">ENODEV: there is none; EINVAL: there are several.</exception>
    public Device FindDevice(string name)
    {
        if (name.StartsWith('/'))
        {
            return fabric.AllDevices.FirstOrDefault(d => d.DevPath == name)
                ?? throw new VirtbusException(Errno.ENODEV, $"There is no device at {name}.{Suggestion.For(name, fabric.AllDevices.Select(static d => d.DevPath))} 'virtbus device list -j' has the paths of all.");
        }
        var found = FindByName(name);
        if (found.Count == 0 && name.IndexOf(':') is > 0 and var colon)
        {
            var (place, rest) = (name[..colon], name[(colon + 1)..]);
            found = [.. FindByName(rest).Where(d => d.Bus?.Name == place || d.Class?.Name == place)];
        }

        // Whoever defined a function knows it by the name that it has there.
        if (found.Count == 0 && _engine.Functions.FirstOrDefault(f => f.Name == name) is { } function)
        {
            return function.Device
                ?? throw new VirtbusException(Errno.ENODEV, $"There is no device '{name}': function '{name}' is {function.StateName}. Activate it first: virtbus function activate {name}");
        }
        return found.Count switch
        {
            1 => found[0],
            0 when fabric.Buses.Any(b => b.TryGetDriver(name, out _)) => throw new VirtbusException(Errno.ENODEV, $"'{name}' is a driver, not a device. The device comes first, then the driver."),
            0 => throw new VirtbusException(Errno.ENODEV, $"There is no device '{name}'.{Suggestion.For(name, fabric.AllDevices.SelectMany(static d => LabelOf(d) is { } label ? [label, d.Name] : new[] { d.Name }))} 'virtbus device list' names those there are."),
            _ => throw new VirtbusException(Errno.EINVAL, $"There are {found.Count} devices '{name}'. Write one of: {string.Join(", ", found.Select(d => d.Subsystem is { } s ? $"{s}:{name}" : d.DevPath))}."),
        };
    }

    /// <summary>The drivers by which a device can be handed to a user, best first.</summary>
    /// <exception cref="VirtbusException">ENODEV: there is no such device; EOPNOTSUPP: none can.</exception>
    public IReadOnlyList<SuggestionAnswer> Suggest(string name)
    {
        var device = FindDevice(name);
        SuggestionAnswer[] all =
        [
            .. (device.Modalias is { } modalias ? VfioSuggestion.For(loader.Index, modalias) : [])
                .Select(s => new SuggestionAnswer(s.DriverOn(device.Bus!), s.Module.Name, s.Alias, s.IsGeneric, s.Reason)),
        ];
        return all.Length > 0
            ? all
            : throw new VirtbusException(Errno.EOPNOTSUPP, $"No module can hand device {device.Name} to users: {(device.Bus is { Name: "pci" } ? "vfio_pci is not in the modules folder" : "only PCI functions can be")}.");
    }

    private IReadOnlyList<Device> FindByName(string name)
    {
        var found = new List<Device>();
        foreach (var bus in fabric.Buses)
        {
            if (bus.TryGetDevice(name, out var device))
                found.Add(device);
        }
        foreach (var @class in fabric.Classes)
        {
            if (@class.TryGetDevice(name, out var device) && !found.Contains(device))
                found.Add(device);
        }
        if (found.Count > 0)
            return found;
        // Hardware on PCI is named by its place; people call it by its label. Devices on no bus and of no class are in no directory but that
        // of their parent.
        return [.. fabric.AllDevices.Where(d => LabelOf(d) == name || (d.Name == name && d.Subsystem is null))];
    }
}
