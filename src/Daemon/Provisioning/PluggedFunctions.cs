using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// A kind of function whose hardware this program makes and plugs into the PCI bus, for the driver that its profile names. A kind adds itself to the engine
/// when it is made, and says what the hardware is.
/// </summary>
internal abstract class PluggedFunctions(ProvisioningContext context) : SingleFunctionProvider, IAsyncDisposable
{
    /// <summary>The driver by which users in user space and virtual machines have a function.</summary>
    protected const string UserDriver = "vfio-pci";

    protected static readonly ProfileField<string> DriverName = ProfileFields.Driver(UserDriver, standard: UserDriver);

    private readonly PciBus _bus = context.Fabric.GetBus<PciBus>();
    // Whoever takes one out of it disposes it.
    private readonly ConcurrentDictionary<string, PluggedPart> _parts = new();
    // What is left of those that somebody pulled out, as long as it goes.
    private readonly ConcurrentDictionary<string, Task> _leaving = new();
    private volatile bool _isOver;

    public override IReadOnlyList<string> Parents => [];

    /// <summary>The functions that there are, by name.</summary>
    public IEnumerable<PluggedPart> Parts => _parts.Values.OrderBy(static p => p.Name, StringComparer.Ordinal);

    /// <summary>A function that there is; null when none has the name. Any thread.</summary>
    protected PluggedPart? FindPart(string name) => _parts.GetValueOrDefault(name);

    protected ProvisioningContext Context => context;

    protected ProvisioningEngine Engine { get; } = ProvisioningEngine.Of(context.Fabric);

    public override Device? Find(FunctionProfile profile, Device device) =>
        // After a remove and a rescan another device stands for the same hardware.
        base.Find(profile, device) ?? _bus.Devices.OfType<PciDevice>().FirstOrDefault(d => d.Label == profile.Name);

    public override string? PlaceOf(Device device) => device.Name;

    public override void Forget(string name)
    {
        // Mostly there is nothing left; else somebody pulled the hardware out, and what is behind it is there still.
        if (!_parts.TryRemove(name, out var part))
            return;
        var left = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        _leaving[name] = left.Task;
        context.Fabric.StartWork("end of what was behind " + name, async () =>
        {
            try
            {
                await part.DisposeAsync();
            }
            finally
            {
                _leaving.TryRemove(name, out _);
                left.SetResult();
            }
        });
    }

    /// <summary>Takes the functions down; what was defined to last is as it was.</summary>
    public async ValueTask DisposeAsync()
    {
        _isOver = true;
        Engine.RemoveProvider(this);
        List<Exception> errors = [];
        foreach (var part in Parts.Reverse().ToList())
        {
            try
            {
                if (_parts.TryRemove(part.Name, out _))
                    await part.DisposeAsync();
            }
            catch (Exception e)
            {
                // The others go all the same.
                errors.Add(e);
            }
        }

        await Task.WhenAll(_leaving.Values);
        if (errors.Count > 0)
            throw new AggregateException(errors);
    }

    /// <summary>The only driver that may take it.</summary>
    protected virtual string DriverOf(FunctionProfile profile) => profile.Get(DriverName);

    /// <summary>Makes the hardware and what is behind it; nothing is left when it fails.</summary>
    protected abstract PluggedPart Make(FunctionProfile profile);

    /// <summary>Offers what is behind a part that has its driver by other ways too; what the part withdraws when it goes.</summary>
    /// <exception cref="VirtbusException">The function is not made then.</exception>
    protected virtual ValueTask OfferAsync(FunctionProfile profile, PluggedPart part) => default;

    protected override async ValueTask<Device> ActivateAsync(FunctionProfile profile, CancellationToken cancellationToken)
    {
        // The one before it may have been pulled out, and has the medium and the sockets as long as it is known.
        Forget(profile.Name);
        if (_leaving.TryGetValue(profile.Name, out var leaving))
            await leaving.WaitAsync(cancellationToken);
        var driver = DriverOf(profile);
        await Engine.LoadDriverAsync(_bus, driver);
        var part = Make(profile);
        try
        {
            part.Device = await _bus.PlugAsync(
                part.Function,
                profile.Name,
                device =>
                {
                    // Before it is visible, so that no other driver has it first.
                    Context.Fabric.SetDriverOverride(device, driver);
                    return default;
                },
                PciAddress.TryParse(profile.Place, out var place) ? place : null);
            await Engine.RequireDriverAsync(profile.Name, part.Device, driver, cancellationToken);
            await OfferAsync(profile, part);
            _parts[profile.Name] = part;
        }
        catch
        {
            await part.DisposeAsync();
            throw;
        }

        // The end may have looked before it was there.
        if (!_isOver || !_parts.TryRemove(profile.Name, out _))
            return part.Device;
        await part.DisposeAsync();
        throw new VirtbusException(Errno.ENODEV, $"Function '{profile.Name}' was not made: the fabric is taken down.");
    }

    protected override async ValueTask DeactivateAsync(FunctionProfile profile, Device device)
    {
        if (!_parts.TryGetValue(profile.Name, out var part))
            return;
        // One that can't go stays known.
        await part.DisposeAsync();
        _parts.TryRemove(profile.Name, out _);
    }

    /// <summary>The socket of a part's line, in the runtime folder.</summary>
    protected SerialConsole Listen(string name, ITextPort port, ILogger log) =>
        new(port, Path.Combine(Context.RuntimeFolder, name + ".console.sock"), log, Context.Fabric.Time);
}
