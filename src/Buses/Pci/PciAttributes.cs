using System.Globalization;
using System.Text;
using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using static Virtbus.Pci.PciCapabilityId;
using static Virtbus.Pci.PciExpress;
using static Virtbus.Pci.PciExtendedCapabilityId;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciSriov;

namespace Virtbus.Buses.Pci;

/// <summary>The attributes of PCI devices, drivers and the bus, with Linux's names, formats and errors.</summary>
internal static class PciAttributes
{
    private static readonly string[] States = ["D0", "D1", "D2", "D3hot"];
    private static readonly string[] Speeds = ["Unknown", "2.5 GT/s PCIe", "5.0 GT/s PCIe", "8.0 GT/s PCIe", "16.0 GT/s PCIe", "32.0 GT/s PCIe", "64.0 GT/s PCIe"];

    public static readonly ObjectAttribute<PciDevice> GroupType = new("type", static _ => "DMA");

    public static readonly AttributeGroup[] OfBus =
    [
        new(
            new ObjectAttribute<PciBus>("rescan", null, static (b, value, _) => IsSet("/bus/pci/rescan", value) ? b.RescanAsync() : default)),
        AttributeGroup.Dynamic<PciBus>("providers", static b => b.Providers.Select(static p => new ObjectAttribute<PciBus>(p.Name, _ => string.Join('\n', p.List())))),
    ];

    public static readonly AttributeGroup[] OfDriver =
    [
        new(
            new ObjectAttribute<PciDriver>("new_id", null, static (d, value, _) => d.AddDynamicIdAsync(ParseId("new_id", value)), isString: true),
            new ObjectAttribute<PciDriver>("remove_id", null, static (d, value, _) => d.RemoveDynamicIdAsync(ParseId("remove_id", value)), isString: true)),
    ];

    public static readonly AttributeGroup[] OfDevice =
    [
        new(
            new ObjectAttribute<PciDevice>("vendor", static d => $"0x{d.VendorId:x4}"),
            new ObjectAttribute<PciDevice>("device", static d => $"0x{d.DeviceId:x4}"),
            new ObjectAttribute<PciDevice>("subsystem_vendor", static d => $"0x{d.SubsystemVendorId:x4}"),
            new ObjectAttribute<PciDevice>("subsystem_device", static d => $"0x{d.SubsystemId:x4}"),
            new ObjectAttribute<PciDevice>("revision", static d => $"0x{d.Revision:x2}"),
            new ObjectAttribute<PciDevice>("class", static d => $"0x{d.ClassCode:x6}"),
            new ObjectAttribute<PciDevice>("faults", static d => $"{d.FaultCount}", null, static d => d.FaultCount > 0),
            new ObjectAttribute<PciDevice>("irq", static d => $"{(d.Vectors is [{ Kind: PciInterruptKinds.Msi or PciInterruptKinds.INTx } first, ..] ? first.Irq : 0)}"),
            new ObjectAttribute<PciDevice>("resource", Resource),
            new BinaryAttribute<PciDevice>("config", static d => d.ConfigSize, static (d, at, to) => d.ReadConfig((int)at, to), Dump, static (d, at, from) => d.WriteConfig((int)at, from), StoreConfig) { PublicBytes = 64 },
            new ObjectAttribute<PciDevice>("enable", static d => $"{d.Enables}", static (d, value, _) => d.Fabric!.RunExclusiveAsync(d, () => StoreEnable(d, value))),
            new ObjectAttribute<PciDevice>("remove", null, static (d, value, _) => IsSet(d.DevPath + "/remove", value) ? d.PciBus.RemoveAsync(d) : default),
            new ObjectAttribute<PciDevice>("unplug", null, static (d, value, _) => UnplugAsync(d, value), static d => d.Slot is not null),
            new ObjectAttribute<PciDevice>("rescan", null, static (d, value, _) => IsSet(d.DevPath + "/rescan", value) ? d.PciBus.RescanAsync(d) : default),
            new ObjectAttribute<PciDevice>("reset", null, static (d, value, _) => ResetAsync(d, value), HasReset),
            new ObjectAttribute<PciDevice>("reset_method", static d => string.Join(' ', ResetsOf(d)), static (d, value, _) => StoreResetMethod(d, value), HasReset),
            new ObjectAttribute<PciDevice>("numa_node", static _ => "-1"),
            // On no node, a function is as near to one processor as to the other.
            new ObjectAttribute<PciDevice>("local_cpus", static _ => ProcessorMask()),
            new ObjectAttribute<PciDevice>("local_cpulist", static _ => Environment.ProcessorCount == 1 ? "0" : $"0-{Environment.ProcessorCount - 1}"),
            new ObjectAttribute<PciDevice>("dma_mask_bits", static _ => "64"),
            new ObjectAttribute<PciDevice>("consistent_dma_mask_bits", static _ => "64"),
            new ObjectAttribute<PciDevice>("d3cold_allowed", static _ => "0"),
            new ObjectAttribute<PciDevice>("broken_parity_status", static _ => "0"),
            new ObjectAttribute<PciDevice>("msi_bus", static _ => "1"),
            new ObjectAttribute<PciDevice>("power_state", PowerState),
            new ObjectAttribute<PciDevice>("ari_enabled", static d => IsAriEnabled(d) ? "1" : "0"),
            new ObjectAttribute<PciDevice>("current_link_speed", static d => Speed(ReadExpress16(d, PCI_EXP_LNKSTA)), null, IsExpress),
            new ObjectAttribute<PciDevice>("current_link_width", static d => Width(ReadExpress16(d, PCI_EXP_LNKSTA)), null, IsExpress),
            new ObjectAttribute<PciDevice>("max_link_speed", static d => Speed(ReadExpress16(d, PCI_EXP_LNKCAP)), null, IsExpress),
            new ObjectAttribute<PciDevice>("max_link_width", static d => Width(ReadExpress16(d, PCI_EXP_LNKCAP)), null, IsExpress),
            new ObjectAttribute<PciDevice>("secondary_bus_number", static d => $"{d.ReadConfig8(PCI_SECONDARY_BUS)}", null, static d => d.IsBridge),
            new ObjectAttribute<PciDevice>("subordinate_bus_number", static d => $"{d.ReadConfig8(PCI_SUBORDINATE_BUS)}", null, static d => d.IsBridge),
            new ObjectAttribute<PciDevice>("dma_owner", DmaOwner),
            new ObjectAttribute<PciDevice>("dma_faults", static d => $"{d.DmaOrNull?.Faults ?? 0}"),
            new ObjectAttribute<PciDevice>("dma_last_fault", LastFault)),
        new(
            new ObjectAttribute<PciDevice>("sriov_totalvfs", static d => $"{d.TotalVirtualFunctions}", null, HasSriov),
            new ObjectAttribute<PciDevice>("sriov_numvfs", static d => $"{d.VirtualFunctions.Count}", StoreNumberAsync, HasSriov),
            new ObjectAttribute<PciDevice>("sriov_offset", static d => $"{ReadSriov16(d, PCI_SRIOV_VF_OFFSET)}", null, HasSriov),
            new ObjectAttribute<PciDevice>("sriov_stride", static d => $"{ReadSriov16(d, PCI_SRIOV_VF_STRIDE)}", null, HasSriov),
            new ObjectAttribute<PciDevice>("sriov_vf_device", static d => $"{d.Sriov!.DeviceId:x}", null, HasSriov),
            new ObjectAttribute<PciDevice>("sriov_drivers_autoprobe", static d => d.Sriov!.DriversAutoprobe ? "1" : "0", StoreAutoprobe, HasSriov),
            new ObjectAttribute<PciDevice>("sriov_vf_msix_count", null, static (d, value, _) => StoreVectorsAsync(d, value), static d => d.PhysicalFunction is not null),
            new ObjectAttribute<PciDevice>("sriov_vf_total_msix", static d => $"{(d.Driver as PciDriver)?.GetVirtualFunctionVectors(d) ?? 0}", null, HasSriov)),
        new([.. Enumerable.Range(0, PciBar.Rom).Select(ResourceFile)]),
        AttributeGroup.Dynamic<PciDevice>("msi_irqs", static d => d.Vectors
            .Where(static v => v.Kind != PciInterruptKinds.INTx)
            .Select(static v => new ObjectAttribute<PciDevice>($"{v.Irq}", _ => v.Kind == PciInterruptKinds.Msi ? "msi" : "msix"))),
    ];

    private static bool HasSriov(PciDevice device) => device.Sriov is not null;

    private static bool IsExpress(PciDevice device) => device.FindCapability(PCI_CAP_ID_EXP) != 0;

    private static ushort ReadSriov16(PciDevice device, int offset) => device.ReadConfig16(device.Sriov!.Capability + offset);

    private static ushort ReadExpress16(PciDevice device, int offset) => device.ReadConfig16(device.FindCapability(PCI_CAP_ID_EXP) + offset);

    private static string Speed(ushort link) => (link & 0xF) < Speeds.Length ? Speeds[link & 0xF] : Speeds[0];

    private static string Width(ushort link) => $"{(link >> 4) & 0x3F}";

    // Linux takes any number there; 0 does nothing.
    private static bool IsSet(string path, string value) => AttributeValue.ParseUnsigned(path, value) != 0;

    private static bool IsAriEnabled(PciDevice device) =>
        device.Parent is PciDevice port && port.FindCapability(PCI_CAP_ID_EXP) is > 0 and var express
        && device.FindExtendedCapability(PCI_EXT_CAP_ID_ARI) != 0
        && (port.ReadConfig16(express + PCI_EXP_DEVCTL2) & PCI_EXP_DEVCTL2_ARI) != 0;

    private static string PowerState(PciDevice device)
    {
        if (!device.IsReachable)
            return "D3cold";
        return device.FindCapability(PCI_CAP_ID_PM) is > 0 and var power ? States[device.ReadConfig8(power + 4) & 3] : "unknown";
    }

    private static string DmaOwner(PciDevice device)
    {
        if (device.Group.IommuOrNull is not { } group)
            return "none";
        return group.OwnerKind switch
        {
            DmaOwnerKind.Driver => $"driver {group.OwnerName}",
            DmaOwnerKind.User => $"user {group.OwnerName}",
            _ => "none",
        };
    }

    private static string LastFault(PciDevice device) => device.DmaOrNull?.LastFault is { } fault
        ? $"0x{fault.Address.Value:x} {fault.Access} {fault.Fault.Errno}{(fault.Port.Pasid is { } pasid ? $" pasid {pasid}" : "")}"
        : "";

    // BARs and ROM, the VF BARs, and for a bridge its windows: 13 lines, or 17.
    private static string Resource(PciDevice device)
    {
        var lines = new StringBuilder();
        for (var i = 0; i < PciBar.Count; i++)
        {
            var resource = device.GetResource(i);
            lines.Append(resource.ToLine(resource.Size));
        }
        for (var i = 0; i < 6; i++)
        {
            var resource = device.Sriov?.Resources[i] ?? default;
            lines.Append(resource.ToLine(resource.Size * (ulong)device.TotalVirtualFunctions));
        }
        if (!device.IsBridge)
            return lines.ToString();
        foreach (var (kind, flags) in new[] { (WindowKind.Io, 0x101u), (WindowKind.Memory, 0x200u), (WindowKind.Prefetchable, 0x102201u) })
            lines.Append(device.Slot?.Secondary?.Windows[(int)kind] is { } window ? PciResource.ToLine(window.Start, window.Last, flags) : PciResource.ToLine(0, 0, 0));
        return lines.Append(PciResource.ToLine(0, 0, 0)).ToString();
    }

    private static BinaryAttribute<PciDevice> ResourceFile(int bar) => new(
        $"resource{bar}",
        d => (long)d.GetResource(bar).Size,
        (d, at, to) => d.GetRegion(bar).Read((ulong)at, to),
        d => throw new VirtbusException(Errno.EIO, $"{d.DevPath}/resource{bar} holds registers, {d.GetResource(bar).Size} bytes of them. Read bytes of it, not text."),
        (d, at, from) => d.GetRegion(bar).Write((ulong)at, from),
        (d, _, _) => throw new VirtbusException(Errno.EINVAL, $"{d.DevPath}/resource{bar} holds registers. Write bytes to it, not text."),
        d => d.GetResource(bar).IsThere);

    // Words of 32 bits in hexadecimal, the highest first.
    private static string ProcessorMask()
    {
        var words = Enumerable.Range(0, (Environment.ProcessorCount + 31) / 32).Select(static i => Math.Min(Environment.ProcessorCount - (i * 32), 32)).Select(static bits => (1UL << bits) - 1);
        return string.Join(',', words.Reverse().Select(static w => $"{w:x8}")).TrimStart('0');
    }

    // As lspci prints it with -xxxx, and reads it with -F.
    private static string Dump(PciDevice device)
    {
        var config = new byte[device.ConfigSize];
        device.ReadConfig(0, config);
        using var text = new StringWriter(CultureInfo.InvariantCulture);
        LspciDump.Write(text, device.Address, config);
        return text.ToString();
    }

    // Lines of the dump: "04: 06 04".
    private static ValueTask StoreConfig(PciDevice device, string value, CancellationToken cancellationToken)
    {
        var writes = new List<(int Offset, byte[] Bytes)>();
        foreach (var line in value.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
        {
            var words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words.Length < 2 || !words[0].EndsWith(':') || !int.TryParse(words[0].AsSpan()[..^1], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var offset))
                throw NoConfig(device, line);
            var bytes = new byte[words.Length - 1];
            for (var i = 0; i < bytes.Length; i++)
            {
                if (!byte.TryParse(words[i + 1], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out bytes[i]))
                    throw NoConfig(device, line);
            }
            if (offset < 0 || offset + bytes.Length > device.ConfigSize)
                throw NoConfig(device, line);
            writes.Add((offset, bytes));
        }
        foreach (var (offset, bytes) in writes)
            device.WriteConfig(offset, bytes);
        return default;
    }

    private static ValueTask UnplugAsync(PciDevice device, string value) => value switch
    {
        "1" => device.PciBus.UnplugAsync(device),
        "surprise" => device.PciBus.SurpriseRemoveAsync(device),
        _ => throw new VirtbusException(Errno.EINVAL, $"{device.DevPath}/unplug: '{value}' is no way to unplug. Write 1 to take the hardware out in order, or surprise to pull it out."),
    };

    private static VirtbusException NoConfig(PciDevice device, string line) =>
        new(Errno.EINVAL, $"{device.DevPath}/config: '{line}' is no part of its {device.ConfigSize} bytes. Write OFFSET: BYTE ... in hexadecimal, for example 04: 06 04.");

    private static ValueTask StoreEnable(PciDevice device, string value)
    {
        var on = IsSet(device.DevPath + "/enable", value);
        if (device.Driver is { } driver)
            throw new VirtbusException(Errno.EBUSY, $"Device {device.Name} is bound to {driver.Name}, which enables and disables it. Unbind it first.");
        if (on)
            device.Enable();
        else if (device.IsEnabled)
            device.Disable();
        else
            throw new VirtbusException(Errno.EIO, $"Device {device.Name} is not enabled, so it can't be disabled.");
        return default;
    }

    private static IEnumerable<string> ResetsOf(PciDevice device)
    {
        var there = PciReset.MethodsOf(device);
        return (device.ChosenResets ?? there).Where(there.Contains);
    }

    private static bool HasReset(PciDevice device) => PciReset.MethodsOf(device).Count > 0;

    private static async ValueTask ResetAsync(PciDevice device, string value)
    {
        if (AttributeValue.ParseUnsigned(device.DevPath + "/reset", value) != 1)
            throw new VirtbusException(Errno.EINVAL, $"{device.DevPath}/reset: '{value}' is not 1.");
        await PciReset.ResetAsync(device);
    }

    private static ValueTask StoreResetMethod(PciDevice device, string value)
    {
        var there = PciReset.MethodsOf(device);
        var names = value.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        if (names.Any(n => n != "default" && !there.Contains(n)) || (names.Length > 1 && names.Contains("default")))
            throw new VirtbusException(Errno.EINVAL, $"{device.DevPath}/reset_method: '{value}' names a method that the device has not. It has: {string.Join(' ', there)}.");
        device.ChosenResets = names is ["default"] ? null : names;
        return default;
    }

    private static ValueTask StoreAutoprobe(PciDevice device, string value, CancellationToken cancellationToken)
    {
        device.Sriov!.DriversAutoprobe = AttributeValue.ParseBoolean(device.DevPath + "/sriov_drivers_autoprobe", value);
        return default;
    }

    private static ValueTask StoreNumberAsync(PciDevice device, string value, CancellationToken cancellationToken)
    {
        var count = (int)AttributeValue.ParseUnsigned(device.DevPath + "/sriov_numvfs", value, ushort.MaxValue);
        if (count > device.TotalVirtualFunctions)
            throw new VirtbusException(Errno.ERANGE, $"Device {device.Name} has at most {device.TotalVirtualFunctions} virtual functions, not {count}.");
        return device.Fabric!.RunExclusiveAsync(device, async () =>
        {
            var now = device.VirtualFunctions.Count;
            if (now == count)
                return;
            if (device.Driver is not PciDriver driver)
                throw new VirtbusException(Errno.ENOENT, $"Device {device.Name} has no driver, which would enable its virtual functions. Bind one first.");
            if (driver.ConfigureVirtualFunctions is not { } configure)
                throw new VirtbusException(Errno.ENOENT, $"Driver {driver.Name} of {device.Name} enables no virtual functions. Bind one that does.");
            if (now > 0 && count > 0)
                throw new VirtbusException(Errno.EBUSY, $"Device {device.Name} has {now} virtual functions enabled. Write 0 before {count}.");
            await configure(device, count);
        });
    }

    private static async ValueTask StoreVectorsAsync(PciDevice device, string value)
    {
        var count = (int)AttributeValue.ParseUnsigned(device.DevPath + "/sriov_vf_msix_count", value, 2048);
        var physical = device.PhysicalFunction!;
        await device.Fabric!.RunExclusiveAsync(physical, async () =>
        {
            if ((physical.Driver as PciDriver)?.ConfigureVectors is not { } configure)
                throw new VirtbusException(Errno.EOPNOTSUPP, $"The driver of {physical.Name} shares out no MSI-X vectors, so {device.Name} keeps those that it has.");
            if (device.Driver is { } driver)
                throw new VirtbusException(Errno.EBUSY, $"Device {device.Name} is bound to {driver.Name}. Unbind it before its number of vectors is changed.");
            await configure(device, count);
        });
    }

    // "vendor device [subvendor subdevice class class_mask driver_data]"
    private static PciDeviceId ParseId(string attribute, string value)
    {
        var words = value.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
        if (words.Length is < 2 or > 7)
            throw new VirtbusException(Errno.EINVAL, $"{attribute}: '{value}' is not VENDOR DEVICE [SUBVENDOR SUBDEVICE CLASS CLASS_MASK DRIVER_DATA] in hexadecimal. Write for example 1b36 0002.");
        Span<ulong> numbers = [0, 0, PciDeviceId.Any, PciDeviceId.Any, 0, 0, 0];
        for (var i = 0; i < words.Length; i++)
        {
            var word = words[i].StartsWith("0x", StringComparison.OrdinalIgnoreCase) ? words[i].AsSpan()[2..] : words[i];
            if (!ulong.TryParse(word, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out numbers[i]) || (i < 6 && numbers[i] > uint.MaxValue))
                throw new VirtbusException(Errno.EINVAL, $"{attribute}: '{words[i]}' is not a hexadecimal number of that size. Write for example 1b36 0002.");
        }
        return new PciDeviceId((uint)numbers[0], (uint)numbers[1], (uint)numbers[2], (uint)numbers[3], (uint)numbers[4], (uint)numbers[5], numbers[6]);
    }
}
