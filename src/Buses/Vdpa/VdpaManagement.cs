using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Buses.Vdpa;

/// <summary>A management device: makes and removes vDPA devices of one provider.</summary>
public sealed class VdpaManagement
{
    private readonly VdpaBus _bus;
    private readonly IVdpaManagementOps _ops;
    private readonly SemaphoreSlim _turn = new(1, 1);
    private readonly List<VdpaDevice> _devices = [];
    private readonly ProvisioningEngine? _engine;
    private readonly VdpaFunctions? _functions;
    private bool _closed;

    internal VdpaManagement(VdpaBus bus, Device device, IVdpaManagementOps ops)
    {
        _bus = bus;
        _ops = ops;
        Device = device;
        Fields = [VdpaFields.Type, .. ops.Fields, VdpaFields.Driver];
        if (bus.Fabric is not { } fabric)
            return;
        _engine = ProvisioningEngine.Of(fabric);
        _functions = new VdpaFunctions(this, _engine);
    }

    /// <summary>The device that serves what is made.</summary>
    public Device Device { get; }

    /// <summary>The bus that it makes devices for.</summary>
    public VdpaBus Bus => _bus;

    /// <summary>The handle that tools use: bus and device name, or the name alone when its device is on no bus.</summary>
    public string Name => Device.Subsystem is { } subsystem ? $"{subsystem}/{Device.Name}" : Device.Name;

    /// <summary>The virtio types that can be made.</summary>
    public IReadOnlyList<uint> SupportedTypes => _ops.SupportedTypes;

    /// <summary>What a profile may say, in the order in which it is shown.</summary>
    public IReadOnlyList<ProfileField> Fields { get; }

    /// <summary>Makes a profile for <see cref="AddAsync"/>.</summary>
    /// <param name="name">The device's name on the bus.</param>
    /// <param name="values">Values of <see cref="Fields"/>, as text.</param>
    /// <exception cref="VirtbusException">EOPNOTSUPP: an attribute that the provider has not; EINVAL: a value.</exception>
    public FunctionProfile Profile(string name, params IEnumerable<KeyValuePair<string, string>> values) =>
        FunctionProfile.Parse(VdpaFunctions.KindName, name, Fields, values);

    /// <summary>Makes a device as a profile says, and adds it.</summary>
    /// <param name="profile">The whole configuration, see <see cref="Profile"/>.</param>
    /// <exception cref="VirtbusException">
    /// EOPNOTSUPP: the type; EINVAL: something that has to be set is not; EEXIST: the name is taken; ENODEV: the provider is going; else what it answers.
    /// Nothing is left behind.
    /// </exception>
    public async ValueTask<VdpaDevice> AddAsync(FunctionProfile profile)
    {
        ArgumentNullException.ThrowIfNull(profile);
        Check(profile);
        if (Fields.FirstOrDefault(f => f.IsRequired && !profile.IsSet(f)) is { } missing)
            throw new VirtbusException(Errno.EINVAL, $"vDPA device '{profile.Name}' has no {missing.Name}. Give it one: {missing.Description}.");
        await _turn.WaitAsync();
        try
        {
            if (_closed)
                throw new VirtbusException(Errno.ENODEV, $"{Name} is going away; vDPA device '{profile.Name}' was not made.");
            var ops = _ops.Create(profile);
            try
            {
                var made = new VdpaDevice(_bus, profile.Name, Device, ops);
                // Before it is visible, so that no other driver has it first.
                if (profile.TryGet(VdpaFields.Driver, out var driver))
                    _bus.Fabric!.SetDriverOverride(made, driver);
                var device = await _bus.Fabric!.RegisterAsync(made);
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

    /// <summary>Offers it to whoever defines functions; once, when it is registered.</summary>
    internal void Offer()
    {
        if (_functions is not null)
            _engine!.AddProvider(_functions);
    }

    internal void Check(FunctionProfile profile)
    {
        if (!SupportedTypes.Contains((uint)profile.Get(VdpaFields.Type)))
            throw new VirtbusException(Errno.EOPNOTSUPP, $"{Name} can't make vDPA device '{profile.Name}' of virtio type {profile.Get(VdpaFields.Type)}. It makes {string.Join(", ", SupportedTypes)}.");
    }

    internal async ValueTask CloseAsync()
    {
        if (_functions is not null)
            _engine!.RemoveProvider(_functions);
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
