using Microsoft.Extensions.Logging;

namespace Virtbus.Core;

/// <summary>
/// What a driver acquires while it probes, kept by the device: released last in, first out when the driver is unbound or its probe
/// fails, so a probe needs no unwinding of its own (Linux: devres).
/// </summary>
/// <remarks>Used by the transition that owns the device: in probe and remove, one thread at a time.</remarks>
public sealed class DeviceResources
{
    private readonly Device _device;
    private readonly Stack<Func<ValueTask>> _releases = new();

    internal DeviceResources(Device device) => _device = device;

    /// <summary>How many resources are held.</summary>
    public int Count => _releases.Count;

    /// <summary>Keeps a resource.</summary>
    /// <param name="resource">Disposed on release.</param>
    /// <typeparam name="T">The resource's type.</typeparam>
    /// <returns>The resource.</returns>
    /// <exception cref="ObjectDisposedException">The device was deleted; nothing would release it any more.</exception>
    public T Add<T>(T resource)
        where T : IDisposable
    {
        _device.ThrowIfOut("list of resources");
        _releases.Push(() =>
        {
            resource.Dispose();
            return default;
        });
        return resource;
    }

    /// <summary>Keeps a resource whose release is asynchronous.</summary>
    /// <param name="resource">Disposed on release.</param>
    /// <typeparam name="T">The resource's type.</typeparam>
    /// <returns>The resource.</returns>
    /// <exception cref="ObjectDisposedException">As for <see cref="Add{T}"/>.</exception>
    public T AddAsync<T>(T resource)
        where T : IAsyncDisposable
    {
        _device.ThrowIfOut("list of resources");
        _releases.Push(resource.DisposeAsync);
        return resource;
    }

    /// <summary>Keeps an action to run on release.</summary>
    /// <param name="release">Runs on release; an error in it is logged and the next release goes on.</param>
    /// <exception cref="ObjectDisposedException">As for <see cref="Add{T}"/>.</exception>
    public void AddAction(Func<ValueTask> release)
    {
        _device.ThrowIfOut("list of resources");
        _releases.Push(release);
    }

    internal async ValueTask ReleaseAllAsync(ILogger log)
    {
        while (_releases.TryPop(out var release))
        {
            try
            {
                await release();
            }
            catch (Exception e)
            {
                // A failing release must not keep what was acquired before it from being released.
                FabricLog.ReleaseFailed(log, _device.Name, e);
            }
        }
    }
}
