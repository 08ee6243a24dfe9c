using System.Reflection;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Buses.Faux;

/// <summary>A driver for hardware on the faux bus. Its id table comes from the <see cref="FauxDeviceTableAttribute"/>s of the class.</summary>
/// <typeparam name="THardware">The hardware's type.</typeparam>
public abstract class FauxDriver<THardware> : TypedDriver<FauxDevice<THardware>, FauxDeviceId>, IFauxDriver
    where THardware : class
{
    private readonly FauxDeviceId[] _ids;

    /// <summary>Makes a driver.</summary>
    /// <param name="bus">The fabric's faux bus.</param>
    /// <param name="name">The driver's name.</param>
    /// <exception cref="VirtbusException">EINVAL: the class has no id table.</exception>
    protected FauxDriver(FauxBus bus, string name)
        : base(name)
    {
        ArgumentNullException.ThrowIfNull(bus);
        Bus = bus;
        _ids = [.. GetType().GetCustomAttributes<FauxDeviceTableAttribute>(inherit: false).Select(a => new FauxDeviceId(a.Model, a.DriverData))];
        if (_ids.Length == 0)
            throw new VirtbusException(Errno.EINVAL, $"Faux driver {Name} has no id table. Put [FauxDeviceTable(\"model\")] on its class.");
    }

    /// <inheritdoc/>
    public sealed override Bus Bus { get; }

    FauxDeviceId[] IFauxDriver.IdTable => _ids;
}
