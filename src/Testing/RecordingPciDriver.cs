using Virtbus.Buses.Pci;

namespace Virtbus.Testing;

/// <summary>
/// A PCI driver whose callbacks a test writes, and which tells <see cref="FabricRig.Calls"/> of each call as <c>driver call device</c>. Unless told
/// otherwise it enables the device and lets it be bus master.
/// </summary>
public sealed class RecordingPciDriver : PciDriver
{
    private readonly FabricRig _fabric;

    internal RecordingPciDriver(FabricRig fabric, string name, PciDeviceId[] ids)
        : base(fabric.Pci, name, ids) => _fabric = fabric;

    /// <summary>What a probe does.</summary>
    public Func<PciDevice, PciDeviceId, ValueTask>? OnProbe { get; set; }

    /// <summary>What a remove does before virtual functions, vectors and the enabling go.</summary>
    public Func<PciDevice, ValueTask>? OnRemove { get; set; }

    /// <summary>What happens before a reset of the slot.</summary>
    public Func<PciDevice, ValueTask>? OnPrepareReset { get; set; }

    /// <inheritdoc/>
    public override Func<PciDevice, int, ValueTask>? ConfigureVirtualFunctions => static (device, count) => device.SetVirtualFunctionsAsync(count);

    /// <inheritdoc/>
    protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(id);
        _fabric.Say($"{Name} probe {device.Name}");
        if (OnProbe is not null)
        {
            await OnProbe(device, id).ConfigureAwait(false);
            return;
        }

        device.Enable();
        device.SetMaster(true);
    }

    /// <inheritdoc/>
    protected override async ValueTask RemoveAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        _fabric.Say($"{Name} remove {device.Name}");
        if (OnRemove is not null)
            await OnRemove(device).ConfigureAwait(false);
        if (device.VirtualFunctions.Count > 0)
            await device.SetVirtualFunctionsAsync(0).ConfigureAwait(false);
        device.FreeVectors();
        device.Disable();
    }

    /// <inheritdoc/>
    protected override ValueTask SuspendAsync(PciDevice device)
    {
        _fabric.Say($"{Name} suspend {device?.Name}");
        return default;
    }

    /// <inheritdoc/>
    protected override ValueTask ResumeAsync(PciDevice device)
    {
        _fabric.Say($"{Name} resume {device?.Name}");
        return default;
    }

    /// <inheritdoc/>
    protected internal override ValueTask PrepareResetAsync(PciDevice device)
    {
        _fabric.Say($"{Name} prepare {device?.Name}");
        return OnPrepareReset?.Invoke(device!) ?? default;
    }

    /// <inheritdoc/>
    protected internal override ValueTask ResetDoneAsync(PciDevice device)
    {
        _fabric.Say($"{Name} done {device?.Name}");
        return default;
    }
}
