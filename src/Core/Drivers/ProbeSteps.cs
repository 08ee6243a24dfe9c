namespace Virtbus.Core;

/// <summary>
/// The steps of one probe, and of letting a device go: bus, power domain, driver, and in reverse. In the device's transition, under no lock.
/// </summary>
internal sealed class ProbeSteps(Fabric fabric)
{
    /// <summary>Configures, attaches to power and probes. What was done is undone when a step fails.</summary>
    internal async ValueTask ProbeAsync(Device device, Driver driver, DeviceId id, CancellationToken token)
    {
        var bus = device.Bus!;
        var configured = false;
        IPowerDomain? domain = null;
        try
        {
            await bus.ConfigureAsync(device, driver);
            configured = true;
            if (bus.GetPowerDomain(device) is { } attach)
            {
                await attach.AttachAsync(device);
                domain = attach;
            }
            await driver.ProbeAsync(device, id, token);
        }
        catch
        {
            await LetGoAsync(device, driver, domain, configured);
            throw;
        }
    }

    /// <summary>Calls the driver's remove, and undoes all the rest.</summary>
    internal async ValueTask RemoveAsync(Device device, Driver driver)
    {
        if (device.PowerState is { } power)
            await power.HoldForRemoveAsync();
        try
        {
            await driver.RemoveAsync(device);
        }
        catch (Exception e)
        {
            FabricLog.RemoveFailed(fabric.Log, device.Name, driver.Name, e);
        }
        IPowerDomain? domain = null;
        try
        {
            domain = device.Bus!.GetPowerDomain(device);
        }
        catch (Exception e)
        {
            FabricLog.ReleaseFailed(fabric.Log, device.Name, e);
        }
        await LetGoAsync(device, driver, domain, configured: true);
    }

    /// <summary>Releases what was put into the resources of a device.</summary>
    internal async ValueTask ReleaseResourcesAsync(Device device)
    {
        if (device.ResourcesOrNull is { } resources)
            await resources.ReleaseAllAsync(fabric.Log);
    }

    // What the probe acquired goes before what it stood on. Each step is taken whatever became of the one before.
    private async ValueTask LetGoAsync(Device device, Driver driver, IPowerDomain? domain, bool configured)
    {
        await ReleaseResourcesAsync(device);
        if (device.PowerState is { } power)
            await power.DisableRuntimeAsync();
        try
        {
            if (domain is not null)
                await domain.DetachAsync(device);
        }
        catch (Exception e)
        {
            FabricLog.ReleaseFailed(fabric.Log, device.Name, e);
        }
        try
        {
            if (configured)
                await device.Bus!.UnconfigureAsync(device, driver);
        }
        catch (Exception e)
        {
            FabricLog.ReleaseFailed(fabric.Log, device.Name, e);
        }
    }
}
