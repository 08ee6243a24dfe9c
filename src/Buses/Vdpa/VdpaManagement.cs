using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Vdpa;

/// <summary>A management device: makes and removes vDPA devices of one provider.</summary>
public sealed class VdpaManagement
{
    private readonly VdpaBus _bus;
    private readonly IVdpaManagementOps _ops;
    private readonly SemaphoreSlim _turn = new(1, 1);
    private readonly List<VdpaDevice> _devices = [];
    private bool _closed;

    internal VdpaManagement(VdpaBus bus, Device device, IVdpaManagementOps ops)
    {
        _bus = bus;
        _ops = ops;
        Device = device;
    }

    /// <summary>The device that serves what is made.</summary>
    public Device Device { get; }

    /// <summary>The bus that it makes devices for.</summary>
    public VdpaBus Bus => _bus;

    /// <summary>The handle that tools use: bus and device name, or the name alone when its device is on no bus.</summary>
    public string Name => Device.Subsystem is { } subsystem ? $"{subsystem}/{Device.Name}" : Device.Name;

    /// <summary>The virtio types that can be made.</summary>
    public IReadOnlyList<uint> SupportedTypes => _ops.SupportedTypes;

    /// <summary>The most virtqueues that a device can have.</summary>
    public int MaxQueues => _ops.MaxQueues;

    /// <summary>Makes a device as a profile says, and adds it.</summary>
    /// <param name="profile">The whole configuration.</param>
    /// <exception cref="VirtbusException">
    /// EOPNOTSUPP: the type; EINVAL: the number of queues; EEXIST: the name is taken; ENODEV: the provider is going; else what it answers.
    /// Nothing is left behind.
    /// </exception>
    public async ValueTask<VdpaDevice> AddAsync(VdpaProfile profile)
    {
        ArgumentNullException.ThrowIfNull(profile);
        if (!SupportedTypes.Contains(profile.VirtioType))
            throw new VirtbusException(Errno.EOPNOTSUPP, $"{Name} can't make vDPA device '{profile.Name}' of virtio type {profile.VirtioType}. It makes {string.Join(", ", SupportedTypes)}.");
        if (profile.Queues < 1 || profile.Queues > MaxQueues)
            throw new VirtbusException(Errno.EINVAL, $"vDPA device '{profile.Name}': {profile.Queues} queues are not possible on {Name}. Choose 1 to {MaxQueues}.");
        await _turn.WaitAsync();
        try
        {
            if (_closed)
                throw new VirtbusException(Errno.ENODEV, $"{Name} is going away; vDPA device '{profile.Name}' was not made.");
            var ops = _ops.Create(profile);
            try
            {
                var device = await _bus.Fabric!.RegisterAsync(new VdpaDevice(_bus, profile.Name, Device, ops));
                _devices.Add(device);
                return device;
            }
            catch
            {
                _ops.Destroy(ops);
                throw;
            }
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Removes a device.</summary>
    /// <param name="device">A device made here; one that was removed already is no error.</param>
    public async ValueTask RemoveAsync(VdpaDevice device)
    {
        await _turn.WaitAsync();
        try
        {
            if (!_devices.Contains(device))
                return;
            // First: one that could not be taken down stays, to be tried again.
            await DestroyAsync(device);
            _devices.Remove(device);
        }
        finally
        {
            _turn.Release();
        }
    }

    internal async ValueTask CloseAsync()
    {
        await _turn.WaitAsync();
        try
        {
            _closed = true;
            foreach (var device in Enumerable.Reverse(_devices))
                await DestroyAsync(device);
            _devices.Clear();
        }
        finally
        {
            _turn.Release();
        }
    }

    private async ValueTask DestroyAsync(VdpaDevice device)
    {
        await _bus.Fabric!.UnregisterAsync(device);
        _ops.Destroy(device.Ops);
    }
}
