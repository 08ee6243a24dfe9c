using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Tty;

/// <summary>The lines of a fabric (Linux: tty): drivers register them, users find them in class <c>tty</c>, and open them.</summary>
public sealed class TtySubsystem
{
    private readonly Fabric _fabric;
    private readonly SemaphoreSlim _turn = new(1, 1);

    private TtySubsystem(Fabric fabric) => _fabric = fabric;

    /// <summary>The class of the lines.</summary>
    public Class Class { get; } = new("tty");

    /// <summary>The subsystem of a fabric, made at the first call.</summary>
    /// <param name="fabric">The fabric.</param>
    public static TtySubsystem Of(Fabric fabric)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        return fabric.GetSubsystem(static f =>
        {
            var subsystem = new TtySubsystem(f);
            f.RegisterClass(subsystem.Class);
            return subsystem;
        });
    }

    /// <summary>Registers a line, under the first name of its kind that is free.</summary>
    /// <param name="parent">The hardware's device; null for a line without one, which is in <c>/devices/virtual</c>.</param>
    /// <param name="kind">The kind: <c>hvc</c> gives hvc0, hvc1 and on.</param>
    /// <param name="ops">The driver's side; nobody calls it any more when <see cref="UnregisterAsync"/> has ended.</param>
    /// <exception cref="VirtbusException">EINVAL: the kind is no name.</exception>
    public async ValueTask<TtyDevice> RegisterAsync(Device? parent, string kind, ITtyOps ops)
    {
        ArgumentNullException.ThrowIfNull(ops);
        if (string.IsNullOrEmpty(kind))
            throw new VirtbusException(Errno.EINVAL, "A line has a kind, which its name begins with. Give one, as hvc.");
        await _turn.WaitAsync();
        try
        {
            var number = 0;
            while (Class.TryGetDevice($"{kind}{number}", out _))
                number++;
            return await _fabric.RegisterAsync(new TtyDevice(this, $"{kind}{number}", parent, ops));
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Hangs a line up and takes it out: its user is told, and who waits at it does not any more.</summary>
    /// <param name="device">The line.</param>
    public ValueTask UnregisterAsync(TtyDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        device.HangUp();
        return _fabric.UnregisterAsync(device);
    }
}
