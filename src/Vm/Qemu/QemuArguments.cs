using System.Text.Json.Nodes;

namespace Virtbus.Vm;

/// <summary>Builds QEMU's arguments for a guest.</summary>
internal static class QemuArguments
{
    /// <summary>
    /// The virtio ports of a guest that runs a command; init.sh knows them by these names. The guest learns in this order that the host has
    /// them open, so once it hears the host on the last one it may read the others.
    /// </summary>
    public static readonly IReadOnlyList<string> Ports = ["in", "out", "err", "control"];

    // no_timer_check: on a busy host the kernel's check of an emulated timer can fail and then panics the guest.
    // The rest of the flags leave out work that a throw-away guest does not need.
    private const string KernelFlags =
        "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off cryptomgr.notests random.trust_cpu=on audit=0 nokaslr";

    /// <summary>The guest's machine: CPUs, shared memory, kernel and devices, but no console.</summary>
    public static IEnumerable<string> Machine(VmOptions options, VmAccelerator accelerator, GuestImage image, string kernelArguments)
    {
        bool kvm = accelerator == VmAccelerator.Kvm;
        // What lists of processes and our messages call it: a private QEMU is run by its loader and would have that one's name.
        yield return "-name";
        yield return "process=qemu-virtbus";
        yield return "-no-user-config";
        yield return "-nodefaults";
        // Not -nographic: that has the firmware write to the serial console too, and clear the user's screen.
        yield return "-display";
        yield return "none";
        if (!options.CanReboot)
            yield return "-no-reboot";
        yield return "-machine";
        yield return $"q35,accel={(kvm ? "kvm" : "tcg")},sata=off,smbus=off,memory-backend=mem";
        yield return "-cpu";
        yield return kvm ? "host" : "max";
        yield return "-smp";
        yield return $"{options.Cpus}";
        yield return "-m";
        yield return $"{options.MemoryMiB}M";
        // Shared memory: the daemons map the guest's memory by descriptor instead of being sent copies.
        yield return "-object";
        yield return options.SharedMemory
            ? $"memory-backend-memfd,id=mem,size={options.MemoryMiB}M,share=on"
            : $"memory-backend-ram,id=mem,size={options.MemoryMiB}M";
        if (options.Iommu)
        {
            // Caching mode makes the guest tell of new mappings too; without it a device behind vfio would not see them. Before the devices,
            // so that they come up behind it.
            yield return "-device";
            yield return "intel-iommu,caching-mode=on,intremap=off";
        }

        yield return "-kernel";
        yield return image.Kernel;
        yield return "-initrd";
        yield return image.Initramfs;
        yield return "-append";
        // Unsafe: this IOMMU remaps no interrupts, and the guest's vfio refuses to work with such a one unless told.
        string iommu = options.Iommu ? " intel_iommu=on iommu.passthrough=0 vfio_iommu_type1.allow_unsafe_interrupts=1" : "";
        string legacy = options.LegacyVirtio ? " virtio_pci.force_legacy=1" : "";
        yield return $"{KernelFlags}{iommu}{legacy} virtbus_modules={string.Join(',', GuestImage.BootModules)} {kernelArguments}";
        for (int i = 0; i < options.Devices.Count; i++)
        {
            foreach (string argument in Device(options.Devices[i], $"dev{i}"))
                yield return argument;
        }
    }

    /// <summary>The terminal of the user as the guest's console. Ctrl-C is a byte like others; Ctrl-A X ends QEMU.</summary>
    public static IEnumerable<string> Terminal() => ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console"];

    /// <summary>QEMU's standard output as the guest's console, and the ports of a command, each connected to an abstract socket.</summary>
    /// <param name="socket">Gives the socket name of a port.</param>
    public static IEnumerable<string> CommandPorts(Func<string, string> socket)
    {
        yield return "-chardev";
        yield return "stdio,id=console,signal=off";
        yield return "-serial";
        yield return "chardev:console";
        yield return "-device";
        yield return "virtio-serial-pci";
        foreach (string port in Ports)
        {
            yield return "-chardev";
            yield return $"socket,id={port},path={socket(port)},abstract=on";
            yield return "-device";
            yield return $"virtserialport,chardev={port},name=virtbus.{port}";
        }
    }

    private static IEnumerable<string> Device(VmDevice device, string id)
    {
        JsonObject json = new() { ["driver"] = QemuFinder.DeviceName(device.Kind), ["id"] = id };
        if (device.Kind == VmDeviceKind.VfioUserPci)
        {
            json["socket"] = new JsonObject { ["type"] = "unix", ["path"] = device.SocketPath };
        }
        else
        {
            string chardev = $"{id}-socket";
            yield return "-chardev";
            // A comma in an option's value is written twice.
            yield return $"socket,id={chardev},path={device.SocketPath.Replace(",", ",,")}";
            json["chardev"] = chardev;
            json["num-queues"] = device.Queues;
            // QEMU does not ask for them by itself.
            if (device.Packed)
                json["packed"] = true;
        }

        yield return "-device";
        yield return json.ToJsonString();
    }
}
