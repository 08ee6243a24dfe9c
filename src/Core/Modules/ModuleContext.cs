using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>A module's connection to the fabric that loaded it.</summary>
public sealed class ModuleContext
{
    private Driver[] _drivers = [];
    private List<(Action Add, Action<bool> Remove)> _additions = [];
    private readonly Lock _lock = new();
    private bool _closed;

    internal ModuleContext(Fabric fabric, string name)
    {
        Fabric = fabric;
        Name = name;
        Log = fabric.LoggerFactory.CreateLogger(name);
    }

    /// <summary>The fabric.</summary>
    public Fabric Fabric { get; }

    /// <summary>The module's name, the first part of the names of the devices that it creates (Linux: KBUILD_MODNAME).</summary>
    public string Name { get; }

    /// <summary>The module's log.</summary>
    public ILogger Log { get; }

    /// <summary>Registers a driver as the module's own (DM-25). It is unregistered when the module is unloaded.</summary>
    /// <param name="driver">The driver.</param>
    /// <exception cref="VirtbusException">ENODEV: the module was taken out meanwhile; else as <see cref="Fabric.RegisterDriverAsync"/>.</exception>
    public async ValueTask RegisterDriverAsync(Driver driver)
    {
        ArgumentNullException.ThrowIfNull(driver);
        driver.Module = Name;
        // Before the registration: its probes may fail the init, and the driver must go then too. Readers list the drivers meanwhile.
        lock (_lock)
        {
            if (_closed)
                throw new VirtbusException(Errno.ENODEV, $"Module {Name} was taken out of the fabric; driver {driver.Name} was not registered.");
            _drivers = [.. _drivers, driver];
        }
        await Fabric.RegisterDriverAsync(driver);
    }

    /// <summary>
    /// Puts something of the module's that is no driver into the fabric, for as long as the module is loaded: a provider, a listener. Who takes such things
    /// calls it, so that they go with their module.
    /// </summary>
    /// <param name="add">Puts it in. Called now, and again when an unload is refused after it was taken out.</param>
    /// <param name="remove">
    /// Takes it out, before <see cref="IFabricModule.ExitAsync"/>. False: what it throws refuses the unload, and nothing was taken out then. True: the
    /// fabric ends or the module's init failed, and it goes whatever uses it.
    /// </param>
    /// <exception cref="VirtbusException">ENODEV: the module was taken out meanwhile; else what <paramref name="add"/> throws.</exception>
    public void Add(Action add, Action<bool> remove)
    {
        ArgumentNullException.ThrowIfNull(add);
        ArgumentNullException.ThrowIfNull(remove);
        lock (_lock)
        {
            if (_closed)
                throw new VirtbusException(Errno.ENODEV, $"Module {Name} was taken out of the fabric; nothing of it is put in any more.");
            add();
            _additions.Add((add, remove));
        }
    }

    /// <summary>Takes out what was added, the last one first: all of it, or nothing when one is in use.</summary>
    /// <exception cref="VirtbusException">EBUSY: one is in use, and need not go.</exception>
    internal void RemoveAdditions(bool whateverUsesIt)
    {
        lock (_lock)
        {
            for (var i = _additions.Count - 1; i >= 0; i--)
            {
                try
                {
                    _additions[i].Remove(whateverUsesIt);
                }
                catch (VirtbusException) when (!whateverUsesIt)
                {
                    for (i++; i < _additions.Count; i++)
                        _additions[i].Add();
                    throw;
                }
            }

            // What they refer to is the module's, and would keep its code.
            _additions = [];
            _closed = true;
        }
    }

    internal IReadOnlyList<Driver> Drivers => Volatile.Read(ref _drivers);

    internal async ValueTask UnregisterAllAsync()
    {
        lock (_lock)
            _closed = true;
        foreach (var driver in Drivers.Reverse())
        {
            if (driver.IsRegistered && driver.Module == Name)
                await Fabric.UnregisterDriverAsync(driver);
        }
        lock (_lock)
            _drivers = [];
    }
}
