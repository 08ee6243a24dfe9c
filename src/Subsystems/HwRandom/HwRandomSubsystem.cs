using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.HwRandom;

/// <summary>
/// Entropy sources (Linux: hw_random): drivers register them, and the device <c>hw_random</c> of class <c>misc</c>, which is there from the first one on,
/// gives the bytes of the current one.
/// </summary>
public sealed class HwRandomSubsystem
{
    private readonly Fabric _fabric;
    private readonly Class _class = new("misc");
    private readonly SemaphoreSlim _turn = new(1, 1);
    private IHwRandomOps[] _sources = [];
    private HwRandomDevice? _device;
    private IHwRandomOps? _chosen;

    private HwRandomSubsystem(Fabric fabric) => _fabric = fabric;

    /// <summary>The sources, in the order in which they came.</summary>
    public IReadOnlyList<IHwRandomOps> Sources => Volatile.Read(ref _sources);

    /// <summary>The one that bytes come from: the one that was chosen, else the first; null when there is none.</summary>
    public IHwRandomOps? Current => Volatile.Read(ref _chosen) ?? Volatile.Read(ref _sources).FirstOrDefault();

    /// <summary>Whether somebody chose the current one.</summary>
    public bool IsChosen => Volatile.Read(ref _chosen) is not null;

    /// <summary>The subsystem of a fabric, made at the first call.</summary>
    /// <param name="fabric">The fabric.</param>
    public static HwRandomSubsystem Of(Fabric fabric)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        return fabric.GetSubsystem(static f =>
        {
            var subsystem = new HwRandomSubsystem(f);
            f.RegisterClass(subsystem._class);
            return subsystem;
        });
    }

    /// <summary>Registers a source.</summary>
    /// <param name="source">The driver's operations.</param>
    /// <exception cref="VirtbusException">EEXIST: there is one of that name.</exception>
    public async ValueTask RegisterAsync(IHwRandomOps source)
    {
        ArgumentNullException.ThrowIfNull(source);
        await _turn.WaitAsync();
        try
        {
            if (_sources.Any(s => s.Name == source.Name))
                throw new VirtbusException(Errno.EEXIST, $"There is an entropy source '{source.Name}' already. Give this one another name.");
            if (_device is null || _device.State != DeviceState.Added)
                _device = await _fabric.RegisterAsync(new HwRandomDevice(this, _class));
            Volatile.Write(ref _sources, [.. _sources, source]);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Takes a source out; nobody begins to read from it any more.</summary>
    /// <param name="source">The source.</param>
    public async ValueTask UnregisterAsync(IHwRandomOps source)
    {
        await _turn.WaitAsync();
        try
        {
            Volatile.Write(ref _sources, [.. _sources.Where(s => s != source)]);
            if (_chosen == source)
                Volatile.Write(ref _chosen, null);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Chooses the current source; an empty name leaves it to the subsystem again.</summary>
    /// <param name="name">Its name.</param>
    /// <exception cref="VirtbusException">ENODEV: there is none of that name.</exception>
    public async ValueTask ChooseAsync(string name)
    {
        await _turn.WaitAsync();
        try
        {
            var source = name.Length == 0 ? null : Array.Find(_sources, s => s.Name == name)
                ?? throw new VirtbusException(Errno.ENODEV, $"There is no entropy source '{name}'. rng_available lists those that there are.");
            Volatile.Write(ref _chosen, source);
        }
        finally
        {
            _turn.Release();
        }
    }
}
