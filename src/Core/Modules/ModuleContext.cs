using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>A module's connection to the fabric that loaded it.</summary>
public sealed class ModuleContext
{
    private Driver[] _drivers = [];
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
