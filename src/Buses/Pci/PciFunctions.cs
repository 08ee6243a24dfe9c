using Virtbus.Core;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Buses.Pci;

/// <summary>
/// Functions that the bus's providers open by name, as functions that are defined before they are plugged in. Each provider is an attribute, and its
/// value is the provider's name for the function: <c>simulated=scratch</c>.
/// </summary>
internal sealed class PciFunctions(PciBus bus, ProvisioningEngine engine) : SingleFunctionProvider
{
    private static readonly ProfileField<string> DriverName = ProfileFields.Driver("vfio-pci");

    private ProfileField[] _fields = [DriverName];

    public override string Kind => "pci";

    public override IReadOnlyList<string> Parents => [];

    public override IReadOnlyList<ProfileField> Fields => Volatile.Read(ref _fields);

    /// <summary>A provider came to the bus.</summary>
    internal void Add(IPciFunctionProvider provider) =>
        Volatile.Write(ref _fields, [ProfileFields.Text(provider.Name, provider.NameDescription, provider.IsName), .. _fields]);

    /// <summary>A provider left the bus.</summary>
    internal void Remove(string provider) => Volatile.Write(ref _fields, [.. _fields.Where(f => f.Name != provider)]);

    /// <summary>A function that is defined as one of a provider's; null when there is none.</summary>
    internal ProvisionedFunction? FindOf(string provider) =>
        engine.FunctionsOf(this).FirstOrDefault(f => f.Profile is { } profile && profile.Values.Any(v => v.Key == provider));

    public override void Check(FunctionProfile profile)
    {
        // Its provider may have left since the profile was read.
        if (profile.Values.FirstOrDefault(v => !Fields.Any(f => f.Name == v.Key)) is { Key: { } gone })
            throw new VirtbusException(Errno.EOPNOTSUPP, $"Function '{profile.Name}' can't have '{gone}': that provider has left the PCI bus. Load its module again.");
        if (Chosen(profile).Count() > 1)
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}' can be of one provider only: {string.Join(", ", Chosen(profile))}. Keep one.");
    }

    public override IEnumerable<string> FindMissing(FunctionProfile profile) =>
        Chosen(profile).Any() ? [] : [$"one of {string.Join(", ", Fields.Where(static f => f != DriverName))}"];

    public override Device? Find(FunctionProfile profile, Device device) =>
        // After a remove and a rescan another device stands for the same hardware.
        base.Find(profile, device) ?? bus.Devices.OfType<PciDevice>().FirstOrDefault(d => d.Slot is not null && d.Label == profile.Name);

    public override string? PlaceOf(Device device) => device.Name;

    protected override async ValueTask<Device> ActivateAsync(FunctionProfile profile, CancellationToken cancellationToken)
    {
        var provider = Chosen(profile).First();
        _ = profile.TryGet(DriverName, out var driver);
        if (driver is not null)
            await engine.LoadDriverAsync(bus, driver);
        var device = await bus.PlugAsync(provider.Name, profile.Values.First(v => v.Key == provider.Name).Value, profile.Name, driver, PciAddress.TryParse(profile.Place, out var place) ? place : null, cancellationToken);
        try
        {
            if (driver is not null)
                await engine.RequireDriverAsync(profile.Name, device, driver, cancellationToken);
        }
        catch
        {
            await bus.UnplugAsync(device);
            throw;
        }

        return device;
    }

    protected override ValueTask DeactivateAsync(FunctionProfile profile, Device device) => bus.UnplugAsync((PciDevice)device);

    private IEnumerable<ProfileField> Chosen(FunctionProfile profile) => Fields.Where(f => f != DriverName && profile.IsSet(f));
}
