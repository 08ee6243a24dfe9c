using System.Globalization;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci.HostVfio;

/// <summary>The functions of this host that Linux hands to user space: those that are bound to vfio-pci.</summary>
public sealed class HostFunctionProvider : IPciFunctionProvider
{
    private const string Driver = "vfio-pci";

    private readonly string _functions;
    private readonly string _devices;
    private readonly Microsoft.Extensions.Logging.ILogger _log;

    /// <summary>Makes the provider. Whether the host has anything shows when it is asked.</summary>
    /// <param name="loggers">Makes the logger; none when null.</param>
    /// <param name="sysfs">Where sysfs is.</param>
    /// <param name="devices">Where the vfio files are.</param>
    public HostFunctionProvider(Microsoft.Extensions.Logging.ILoggerFactory? loggers = null, string sysfs = "/sys", string devices = "/dev/vfio")
    {
        _functions = Path.Combine(sysfs, "bus/pci/devices");
        _devices = devices;
        _log = (loggers ?? Microsoft.Extensions.Logging.Abstractions.NullLoggerFactory.Instance).CreateLogger("Virtbus.HostVfio");
    }

    /// <inheritdoc/>
    public string Name => "host";

    /// <inheritdoc/>
    public string NameDescription => "the PCI address of a function of this host that its vfio-pci has";

    /// <inheritdoc/>
    /// <exception cref="VirtbusException">ENODEV: the host has no PCI, or no function that is bound to vfio-pci.</exception>
    public IReadOnlyList<string> List()
    {
        if (!Directory.Exists(_functions))
            throw NoPci();
        string[] functions = [.. Directory.EnumerateFileSystemEntries(_functions).Select(static f => Path.GetFileName(f)).Where(n => LinkOf(n, "driver") == Driver).Order(StringComparer.Ordinal)];
        return functions.Length > 0
            ? functions
            : throw new VirtbusException(Errno.ENODEV, $"No function of this host is bound to {Driver}. Bind one, for example: driverctl set-override 0000:03:00.1 {Driver}");
    }

    /// <inheritdoc/>
    /// <exception cref="VirtbusException">
    /// EINVAL: no address; ENODEV: the host has no such function, or it has no IOMMU group; EBUSY: another driver has it; ENOENT: the host has no
    /// vfio; EACCES; and what the kernel answers.
    /// </exception>
    public ValueTask<IPciFunction> OpenAsync(string name, CancellationToken cancellationToken = default)
    {
        if (!PciAddress.TryParse(name, out var address))
            throw new VirtbusException(Errno.EINVAL, $"'{name}' is no PCI address. Write for example 0000:03:00.1.");
        name = address.ToString();
        if (!Directory.Exists(_functions))
            throw NoPci();
        if (!Directory.Exists(Path.Combine(_functions, name)))
            throw new VirtbusException(Errno.ENODEV, $"This host has no PCI function {name}. 'lspci -D' lists those there are.");
        if (LinkOf(name, "driver") is var driver && driver != Driver)
        {
            throw new VirtbusException(
                Errno.EBUSY, $"Function {name} of this host {(driver is null ? "has no driver" : $"is bound to {driver}")}. Bind it to {Driver}: driverctl set-override {name} {Driver}");
        }
        if (!int.TryParse(LinkOf(name, "iommu_group"), NumberStyles.None, CultureInfo.InvariantCulture, out var group))
            throw new VirtbusException(Errno.ENODEV, $"Function {name} of this host has no IOMMU group, so its DMA can't be contained. Turn the IOMMU on in firmware and kernel.");
        if (!Directory.Exists(_devices))
            throw new VirtbusException(Errno.ENOENT, $"This host has no VFIO ({_devices} is missing). Load vfio-pci, and give a container the folder.");
        var link = new HostVfioLink(name, HostVfioDevice.Open(_devices, group, name));
        return ValueTask.FromResult<IPciFunction>(new RemoteFunction(link, _log));
    }

    private VirtbusException NoPci() => new(Errno.ENODEV, $"This host shows no PCI functions ({_functions} is missing). Use one with PCI, or simulated hardware.");

    private string? LinkOf(string function, string link)
    {
        try
        {
            return new DirectoryInfo(Path.Combine(_functions, function, link)).ResolveLinkTarget(returnFinalTarget: false) is { } target ? target.Name : null;
        }
        catch (IOException)
        {
            return null;
        }
    }
}
