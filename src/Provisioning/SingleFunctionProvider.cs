using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>A provider whose functions come and go one by one.</summary>
public abstract class SingleFunctionProvider : FunctionProvider
{
    /// <inheritdoc/>
    public sealed override async ValueTask<IReadOnlyList<Device>> ActivateAsync(IReadOnlyList<FunctionProfile> profiles, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(profiles);
        var devices = new List<Device>(profiles.Count);
        try
        {
            foreach (var profile in profiles)
                devices.Add(await ActivateAsync(profile, cancellationToken));
            return devices;
        }
        catch
        {
            for (var i = devices.Count - 1; i >= 0; i--)
                await DeactivateAsync(profiles[i], devices[i]);
            throw;
        }
    }

    /// <inheritdoc/>
    public sealed override async ValueTask DeactivateAsync(IReadOnlyList<(FunctionProfile Profile, Device Device)> functions)
    {
        ArgumentNullException.ThrowIfNull(functions);
        VirtbusException? error = null;
        foreach (var (profile, device) in functions.Reverse())
        {
            try
            {
                await DeactivateAsync(profile, device);
            }
            catch (VirtbusException e)
            {
                error ??= e;
            }
        }

        if (error is not null)
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(error);
    }

    /// <summary>Makes one function.</summary>
    /// <param name="profile">A whole profile.</param>
    /// <param name="cancellationToken">Cancelled when somebody deactivates it meanwhile.</param>
    /// <exception cref="VirtbusException">Nothing is left behind.</exception>
    protected abstract ValueTask<Device> ActivateAsync(FunctionProfile profile, CancellationToken cancellationToken);

    /// <summary>Takes one function away; waits for who has it open.</summary>
    /// <param name="profile">Its profile.</param>
    /// <param name="device">The device that stands for it.</param>
    protected abstract ValueTask DeactivateAsync(FunctionProfile profile, Device device);
}
