using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <summary>The net subsystem: drivers register interfaces, users find them in class <c>net</c>.</summary>
public sealed class NetSubsystem
{
    // IFNAMSIZ of Linux without the closing NUL.
    private const int MaxName = 15;

    // Above those of the host, whose tools know interfaces by number too.
    private const int FirstIndex = 1 << 20;

    private int _lastIndex = FirstIndex - 1;

    private NetSubsystem()
    {
    }

    /// <summary>The class of the interfaces.</summary>
    public Class Class { get; } = new("net") { DeviceAttributeGroups = NetDevice.Groups };

    /// <summary>The net subsystem of a fabric, made at the first call.</summary>
    /// <param name="fabric">The fabric.</param>
    public static NetSubsystem Of(Fabric fabric)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        return fabric.GetSubsystem(f =>
        {
            var subsystem = new NetSubsystem();
            f.RegisterClass(subsystem.Class);
            return subsystem;
        });
    }

    /// <summary>Registers an interface; it is down at first.</summary>
    /// <param name="parent">The hardware's device. Its label or place with the port's name makes the interface's name, which so stays the same (VB-20).</param>
    /// <param name="ops">The driver's operations.</param>
    /// <param name="options">What the driver says of it.</param>
    /// <exception cref="VirtbusException">EEXIST: an interface of that name is there.</exception>
    public ValueTask<NetDevice> RegisterAsync(Device parent, INetOps ops, NetDeviceOptions options)
    {
        ArgumentNullException.ThrowIfNull(parent);
        ArgumentNullException.ThrowIfNull(options);
        var index = Interlocked.Increment(ref _lastIndex);
        return parent.Fabric!.RegisterAsync(new NetDevice(this, NameOf(StemOf(parent), options.PhysicalPortName), parent, ops, options, index));
    }

    /// <summary>Takes an interface down and out; nobody brings it up again.</summary>
    /// <param name="device">The interface.</param>
    public async ValueTask UnregisterAsync(NetDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        await device.EndAsync();
        await device.Fabric!.UnregisterAsync(device);
    }

    // As Linux tools name interfaces of PCI devices: by the label that somebody gave, else by bus, slot and function.
    private static string StemOf(Device parent)
    {
        // A virtio device is a number; what it is a part of has the place.
        if (parent is VirtioBusDevice { Parent: { } transport })
            return StemOf(transport);
        if (parent is not PciDevice pci)
            return parent.Name;
        if (pci.Label is { } label)
            return label;
        if (pci.PhysicalFunction is { } physical)
            return $"{StemOf(physical)}v{pci.VirtualFunctionIndex}";
        var (_, bus, device, function) = pci.Address;
        return function == 0 ? $"enp{bus}s{device}" : $"enp{bus}s{device}f{function}";
    }

    // The same hardware and port always give the same name (VB-20). One that is too long is cut and told apart by a hash of the whole.
    private static string NameOf(string parent, string port)
    {
        var name = $"{parent}n{port}";
        if (name.Length <= MaxName)
            return name;
        return $"{parent[..(MaxName - port.Length - 5)]}{StableHash.Of(parent) & 0xFFFF:x4}n{port}";
    }
}
