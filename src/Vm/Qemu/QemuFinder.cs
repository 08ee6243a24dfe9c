using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>
/// Chooses the qemu-system-x86_64 to run: VIRTBUS_QEMU if set, else the first in PATH that has the devices, else a private one in the
/// cache folder, which is made when it is needed.
/// </summary>
public sealed class QemuFinder
{
    private const string Name = "qemu-system-x86_64";

    private readonly CacheFolder _cache;
    private readonly IProgress<string>? _progress;
    private readonly Func<string, string?> _variable;
    private readonly Func<string, IEnumerable<string>> _findAll;

    /// <summary>Makes a finder for this machine.</summary>
    /// <param name="progress">Gets a line for each step that takes time, or null.</param>
    public QemuFinder(IProgress<string>? progress = null)
        : this(CacheFolder.FromEnvironment(progress), progress, Environment.GetEnvironmentVariable, HostCommand.FindAll)
    {
    }

    internal QemuFinder(
        CacheFolder cache, IProgress<string>? progress, Func<string, string?> variable, Func<string, IEnumerable<string>> findAll)
    {
        _cache = cache;
        _progress = progress;
        _variable = variable;
        _findAll = findAll;
    }

    /// <summary>The QEMU device behind a kind.</summary>
    /// <param name="kind">The kind.</param>
    public static string DeviceName(VmDeviceKind kind) => kind switch
    {
        VmDeviceKind.VhostUserBlk => "vhost-user-blk-pci",
        VmDeviceKind.VfioUserPci => "vfio-user-pci",
        _ => throw new VirtbusException(Errno.EINVAL, $"QEMU has no device for kind {kind}."),
    };

    /// <summary>
    /// Finds a QEMU whose <c>-device help</c> lists the devices. Throws ENODEV when VIRTBUS_QEMU lacks one, ENOENT when that is no
    /// program, and EPERM, ENOENT or EIO when a private QEMU is needed and cannot be made.
    /// </summary>
    /// <param name="devices">Names of QEMU devices, such as <c>vfio-user-pci</c>.</param>
    /// <param name="cancellation">Ends the search, and the making of a private QEMU without a trace.</param>
    public async Task<QemuProgram> FindAsync(IReadOnlyCollection<string> devices, CancellationToken cancellation)
    {
        if (_variable("VIRTBUS_QEMU") is { Length: > 0 } chosen)
        {
            if (!HostCommand.IsExecutable(chosen))
                throw new VirtbusException(Errno.ENOENT, $"VIRTBUS_QEMU is '{chosen}', which is no executable file. Set it to a {Name}, or unset it.");
            QemuProgram own = QemuProgram.Installed(chosen);
            return await FirstMissingAsync(own, devices, cancellation) is not { } lacks
                ? own
                : throw new VirtbusException(
                    Errno.ENODEV, $"VIRTBUS_QEMU is '{chosen}', which has no device '{lacks}'{(lacks == DeviceName(VmDeviceKind.VfioUserPci) ? ", new in QEMU 10.1" : "")}. Set it to a newer {Name}, or unset it.");
        }

        string needed = devices.FirstOrDefault(Name);
        foreach (string path in _findAll(Name).Distinct())
        {
            QemuProgram installed = QemuProgram.Installed(path);
            if (await FirstMissingAsync(installed, devices, cancellation) is not { } lacks)
                return installed;
            needed = lacks;
        }

        QemuProgram made = QemuRoot.Find(_cache) ?? await QemuRoot.MakeAsync(_cache, needed, _progress, cancellation);
        return await FirstMissingAsync(made, devices, cancellation) is not { } absent
            ? made
            : throw new VirtbusException(Errno.ENODEV, $"The private QEMU '{made.Path}' has no device '{absent}'. Set VIRTBUS_QEMU to one that has it.");
    }

    private static async Task<string?> FirstMissingAsync(QemuProgram qemu, IReadOnlyCollection<string> devices, CancellationToken cancellation)
    {
        string help = await HostCommand.RunTextAsync(
            [.. qemu.Command, "-device", "help"], "Set VIRTBUS_QEMU to a QEMU that runs.", cancellation);
        return devices.FirstOrDefault(device => !help.Contains($"name \"{device}\""));
    }
}
