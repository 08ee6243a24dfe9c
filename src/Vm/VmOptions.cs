using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>What a virtual machine consists of and what runs in it.</summary>
public sealed class VmOptions
{
    /// <summary>The most processors that a guest can have.</summary>
    public const int MaxCpus = 64;

    /// <summary>The devices, in the order in which the guest finds them: the first disk is /dev/vda.</summary>
    public IReadOnlyList<VmDevice> Devices { get; init; } = [];

    /// <summary>The program and its arguments that busybox sh runs in the guest. Empty for a shell on the user's terminal.</summary>
    public IReadOnlyList<string> Command { get; init; } = [];

    /// <summary>
    /// The Debian suite whose kernel the guest boots, such as <c>trixie</c>: it is fetched once. Null for an installed kernel, else one of the
    /// machine's own sources.
    /// </summary>
    public string? KernelSuite { get; init; }

    /// <summary>Guest memory in MiB, from 128.</summary>
    public int MemoryMiB { get; init; } = 256;

    /// <summary>Virtual CPUs, from 1 to 64.</summary>
    public int Cpus { get; init; } = 1;

    /// <summary>
    /// Whether daemons map the guest's memory. False: a vfio-user device reaches it by messages, which is slow and finds faults of a device's
    /// DMA; a vhost-user device cannot work so.
    /// </summary>
    public bool SharedMemory { get; init; } = true;

    /// <summary>Whether the guest has an IOMMU (VT-d) and uses it for its PCI devices; its own vfio-pci needs one.</summary>
    public bool Iommu { get; init; }

    /// <summary>Whether the guest's virtio_pci takes the registers from before version 1.0 of the standard wherever a device has them.</summary>
    public bool LegacyVirtio { get; init; }

    /// <summary>Whether a reboot in the guest boots it again, and the command starts anew. False: a reboot ends the guest.</summary>
    public bool CanReboot { get; init; }

    /// <summary>How instructions run. Null takes VIRTBUS_VM_ACCEL ("tcg" or "kvm"), and TCG when that is not set.</summary>
    public VmAccelerator? Accelerator { get; init; }

    /// <summary>How long a run with a command may take, boot included. Null for no limit.</summary>
    public TimeSpan? Deadline { get; init; }

    /// <summary>How long the guest may take to boot before a run with a command gives up.</summary>
    public TimeSpan BootDeadline { get; init; } = TimeSpan.FromMinutes(2);

    /// <summary>Where the command's standard input comes from. Null for an empty one. Not closed.</summary>
    public Stream? Input { get; init; }

    /// <summary>Where the command's standard output goes, byte for byte. Not closed.</summary>
    public Stream Output { get; init; } = Stream.Null;

    /// <summary>Where the command's standard error goes, byte for byte. Not closed.</summary>
    public Stream Error { get; init; } = Stream.Null;

    /// <summary>Throws a <see cref="VirtbusException"/> (EINVAL, ENOENT) that names what cannot work.</summary>
    internal void Check()
    {
        if (MemoryMiB < 128)
            throw new VirtbusException(Errno.EINVAL, $"A guest cannot run in {MemoryMiB} MiB of memory. Give it 128 or more.");
        if (Cpus is < 1 or > MaxCpus)
            throw new VirtbusException(Errno.EINVAL, $"A guest cannot have {Cpus} CPUs. Give it 1 to {MaxCpus}.");
        foreach (VmDevice device in Devices)
        {
            if (device.Queues < 1)
                throw new VirtbusException(Errno.EINVAL, $"Device '{device.Name}' cannot have {device.Queues} queues. Give it 1 or more.");
            if (!SharedMemory && device.Kind != VmDeviceKind.VfioUserPci)
                throw new VirtbusException(
                    Errno.EINVAL, $"Device '{device.Name}' is a vhost-user device, which works on shared memory only. Share the guest's memory or leave the device out.");
            if (!FileStatus.TryGetTarget(device.SocketPath, out _, out var error) && error is not (Errno.ENOENT or Errno.ENOTDIR))
                throw new VirtbusException(
                    error, $"The socket '{device.SocketPath}' of device '{device.Name}' can't be looked at: {error}. Run as the user whose daemon serves it.");
            if (error != Errno.None)
                throw new VirtbusException(
                    Errno.ENOENT, $"Device '{device.Name}' has no socket at '{device.SocketPath}'. Start the daemon that serves it first.");
        }
    }

    /// <summary>The accelerator asked for, by option or by variable.</summary>
    internal VmAccelerator ResolveAccelerator(Func<string, string?> variable) => Accelerator ?? variable("VIRTBUS_VM_ACCEL") switch
    {
        null or "" or "tcg" => VmAccelerator.Tcg,
        "kvm" => VmAccelerator.Kvm,
        string other => throw new VirtbusException(Errno.EINVAL, $"VIRTBUS_VM_ACCEL is '{other}'. Set it to 'tcg' or 'kvm', or unset it."),
    };
}
