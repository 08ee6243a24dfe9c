namespace Virtbus.Core;

/// <summary>A power domain that devices are attached to before probe and detached from after remove or a failed probe (DM-20).</summary>
public interface IPowerDomain
{
    /// <summary>Powers the device on. An error fails the bind.</summary>
    /// <param name="device">The device that is about to be probed.</param>
    ValueTask AttachAsync(Device device);

    /// <summary>Takes the device out again; called once for each successful attach.</summary>
    /// <param name="device">The device.</param>
    ValueTask DetachAsync(Device device);
}
