using System.Collections.Concurrent;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Auxiliary;

/// <summary>
/// The virtual bus, under the name that Linux gave it. It matches parts of a device to drivers of the subsystems they serve, and hands the
/// part over with the table entry that matched. It is only that: no resources, no interrupts, no life cycle, no dispatch (VB-02, VB-03).
/// </summary>
public sealed class AuxiliaryBus : Bus
{
    // Kept by the bus: names go with the fabric that used them.
    internal readonly ConcurrentDictionary<(string Module, string Name), AuxiliaryName> Names = new();

    internal const string ModaliasPrefix = "auxiliary:";

    /// <summary>Makes the bus; register it with a fabric.</summary>
    public AuxiliaryBus()
        : base("auxiliary")
    {
    }

    /// <inheritdoc/>
    public override bool HasDriverOverride => true;

    /// <summary>Adds an initialized device (step three). After an error the creator drops its reference and nothing else.</summary>
    /// <param name="device">The device.</param>
    /// <exception cref="VirtbusException">As <see cref="Core.Fabric.AddAsync"/>.</exception>
    public ValueTask AddAsync(AuxiliaryDevice device) => FabricOrThrow().AddAsync(device);

    /// <summary>Takes a device out and drops the creator's reference.</summary>
    /// <param name="device">The device.</param>
    public ValueTask DestroyAsync(AuxiliaryDevice device) => FabricOrThrow().UnregisterAsync(device);

    /// <summary>Makes and adds a device in one call, with an id of the creator's choice.</summary>
    /// <typeparam name="TPayload">What creator and consumer share.</typeparam>
    /// <param name="parent">The device that it is a part of.</param>
    /// <param name="module">The creator's module name.</param>
    /// <param name="name">The kind of part.</param>
    /// <param name="payload">What creator and consumer share.</param>
    /// <param name="id">The creator's number for it.</param>
    /// <exception cref="VirtbusException">As the constructor and <see cref="AddAsync"/>; nothing is left behind.</exception>
    public ValueTask<AuxiliaryDevice<TPayload>> CreateAsync<TPayload>(Device parent, string module, string name, TPayload payload, uint id)
        where TPayload : class =>
        FabricOrThrow().RegisterAsync(new AuxiliaryDevice<TPayload>(this, module, name, id, parent, payload));

    /// <summary>Makes and adds a device in one call, with the lowest free id; it is given back when the device is released.</summary>
    /// <typeparam name="TPayload">What creator and consumer share.</typeparam>
    /// <param name="parent">The device that it is a part of.</param>
    /// <param name="module">The creator's module name.</param>
    /// <param name="name">The kind of part.</param>
    /// <param name="payload">What creator and consumer share.</param>
    /// <param name="ids">The creator's allocator.</param>
    /// <exception cref="VirtbusException">ENOSPC: no id is free; else as the constructor and <see cref="AddAsync"/>; nothing is left behind.</exception>
    public ValueTask<AuxiliaryDevice<TPayload>> CreateAsync<TPayload>(Device parent, string module, string name, TPayload payload, IdAllocator ids)
        where TPayload : class
    {
        ArgumentNullException.ThrowIfNull(ids);
        var id = ids.Allocate();
        AuxiliaryDevice<TPayload> device;
        try
        {
            device = new AuxiliaryDevice<TPayload>(this, module, name, id, parent, payload) { Release = d => ids.Free(((AuxiliaryDevice)d).Id) };
        }
        catch
        {
            ids.Free(id);
            throw;
        }
        return FabricOrThrow().RegisterAsync(device);
    }

    /// <inheritdoc/>
    public override DeviceId? Match(IDeviceIdentity device, Driver driver) =>
        device is IAuxiliaryIdentity identity && driver is IAuxiliaryDriver auxiliary ? auxiliary.IdTable.Find(identity.MatchName) : null;

    /// <inheritdoc/>
    protected override DeviceId? MatchOverride(IDeviceIdentity device, Driver driver) =>
        Match(device, driver) ?? (device is IAuxiliaryIdentity identity && driver is IAuxiliaryDriver ? new AuxiliaryDeviceId(identity.MatchName) : null);

    /// <inheritdoc/>
    protected override string? MatchKey(IDeviceIdentity device) => (device as IAuxiliaryIdentity)?.MatchName;

    /// <inheritdoc/>
    protected override IReadOnlyCollection<string>? MatchKeys(Driver driver) =>
        driver is IAuxiliaryDriver auxiliary ? [.. auxiliary.IdTable.All.Select(i => i.Name)] : null;

    /// <inheritdoc/>
    protected override string? GetModalias(Device device) => (device as AuxiliaryDevice)?.ModaliasText;

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> DriverAttributeGroups => IdGroups;

    private Fabric FabricOrThrow() =>
        Fabric ?? throw new VirtbusException(Errno.EINVAL, "The auxiliary bus is not registered with a fabric. Register it first.");

    private static readonly AttributeGroup[] IdGroups =
    [
        new(
            new ObjectAttribute<Driver>("new_id", null, (d, value, _) => ((IAuxiliaryDriver)d).AddDynamicIdAsync(ParseId("new_id", value)), isString: true),
            new ObjectAttribute<Driver>("remove_id", null, (d, value, _) => ((IAuxiliaryDriver)d).RemoveDynamicIdAsync(ParseId("remove_id", value).Name), isString: true)),
    ];

    // "MODULE.NAME [DRIVER_DATA]"
    private static AuxiliaryDeviceId ParseId(string attribute, string value)
    {
        var words = value.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        if (words.Length is 0 or > 2)
            throw new VirtbusException(Errno.EINVAL, $"{attribute}: '{value}' is not MODULE.NAME with an optional number. Write for example merlin_core.net 1.");
        return new AuxiliaryDeviceId(words[0], words.Length == 2 ? AttributeValue.ParseUnsigned(attribute, words[1]) : 0);
    }
}
