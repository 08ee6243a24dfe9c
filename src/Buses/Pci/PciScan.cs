using System.Numerics;
using Virtbus.Pci;
using static Virtbus.Pci.PciCapabilityId;
using static Virtbus.Pci.PciCommand;
using static Virtbus.Pci.PciExpress;
using static Virtbus.Pci.PciExtendedCapabilityId;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciSriov;

namespace Virtbus.Buses.Pci;

/// <summary>Finds out what a function decodes, by the protocol of the standard (write all ones, see which bits stay), and gives it addresses.</summary>
internal static class PciScan
{
    private const ulong Largest = 1UL << 47;

    /// <summary>Sizes BARs, ROM and VF BARs. Decoding is off meanwhile.</summary>
    /// <param name="device">A function that was just put in.</param>
    public static void Size(PciDevice device)
    {
        var command = device.ReadConfig16(PCI_COMMAND);
        device.WriteConfig16(PCI_COMMAND, (ushort)(command & ~(PCI_COMMAND_IO | PCI_COMMAND_MEMORY)));
        var resources = new PciResource[PciBar.Count];
        SizeBars(device, PCI_BASE_ADDRESS_0, resources.AsSpan(0, device.IsBridge ? 2 : 6));
        resources[PciBar.Rom] = SizeRom(device, device.IsBridge ? PCI_ROM_ADDRESS1 : PCI_ROM_ADDRESS);
        device.Bars = resources;
        var capability = device.FindExtendedCapability(PCI_EXT_CAP_ID_SRIOV);
        var total = capability == 0 ? 0 : device.ReadConfig16(capability + PCI_SRIOV_TOTAL_VF);
        if (total > 0 && device.PhysicalFunction is null)
        {
            var sriov = new SriovState(capability, total, device.ReadConfig16(capability + PCI_SRIOV_VF_DID));
            device.WriteConfig16(capability + PCI_SRIOV_CTRL, 0);
            // 4 KiB pages: what the BARs' alignment is counted in.
            device.WriteConfig32(capability + PCI_SRIOV_SYS_PGSIZE, 1);
            SizeBars(device, capability + PCI_SRIOV_BAR, sriov.Resources);
            device.Sriov = sriov;
        }
        device.WriteConfig16(PCI_COMMAND, command);
    }

    /// <summary>Gives addresses to what was sized, the largest alignment first. Under the topology lock.</summary>
    /// <returns>The indexes of what got none: 0 to 6 are BARs and ROM, 7 to 12 VF BARs.</returns>
    public static List<int> Assign(PciDevice device)
    {
        var segment = device.Segment;
        var total = (ulong)(device.Sriov?.Total ?? 0);
        var wanted = new List<(int Index, PciResource Resource, ulong Size)>();
        for (var i = 0; i < device.Bars.Length; i++)
            wanted.Add((i, device.Bars[i], device.Bars[i].Size));
        for (var i = 0; device.Sriov is { } sriov && i < sriov.Resources.Length; i++)
            wanted.Add((PciBar.Count + i, sriov.Resources[i], sriov.Resources[i].Size > Largest ? ulong.MaxValue : sriov.Resources[i].Size * total));
        var without = new List<int>();
        wanted.RemoveAll(static w => !w.Resource.IsThere);
        // No window is as large; and sums of what is left do not overflow, whatever a function claims.
        foreach (var (index, _, _) in wanted.Where(static w => w.Resource.Size > Largest || w.Size > Largest || w.Size < w.Resource.Size))
            without.Add(index);
        wanted.RemoveAll(w => without.Contains(w.Index));
        foreach (var group in wanted.GroupBy(static w => w.Resource.Window))
        {
            var sum = group.Aggregate(0UL, static (s, w) => s + w.Size);
            segment.Provide(group.Key, sum, group.Max(static w => w.Resource.Size));
        }
        foreach (var (index, resource, size) in wanted.OrderByDescending(static w => w.Resource.Size))
        {
            if (segment.Windows[(int)resource.Window]?.TryAllocate(size, resource.Size, out var start) != true)
            {
                without.Add(index);
                continue;
            }
            if (index < PciBar.Count)
                device.Bars[index] = resource with { Start = start };
            else
                device.Sriov!.Resources[index - PciBar.Count] = resource with { Start = start };
        }
        return without;
    }

    /// <summary>Writes the addresses into the function.</summary>
    public static void Program(PciDevice device)
    {
        for (var i = 0; i < PciBar.Rom; i++)
            ProgramBar(device, PCI_BASE_ADDRESS_0 + (4 * i), device.Bars[i]);
        if (device.Bars[PciBar.Rom] is { IsAssigned: true } rom)
            device.WriteConfig32(device.IsBridge ? PCI_ROM_ADDRESS1 : PCI_ROM_ADDRESS, (uint)rom.Start);
        if (device.Sriov is { } sriov)
        {
            for (var i = 0; i < sriov.Resources.Length; i++)
                ProgramBar(device, sriov.Capability + PCI_SRIOV_BAR + (4 * i), sriov.Resources[i]);
        }
        EnableAri(device);
    }

    /// <summary>Gives the addresses back. Under the topology lock.</summary>
    public static void Release(PciDevice device)
    {
        foreach (var resource in device.Bars.Concat(device.Sriov?.Resources ?? []))
        {
            if (resource.IsAssigned)
                device.Segment.Windows[(int)resource.Window]?.Free(resource.Start);
        }
    }

    /// <summary>Tells a bridge its bus numbers and its windows.</summary>
    public static void ProgramBridge(PciDevice bridge, PciSegment behind)
    {
        bridge.WriteConfig8(PCI_PRIMARY_BUS, (byte)bridge.Segment.Number);
        bridge.WriteConfig8(PCI_SECONDARY_BUS, (byte)behind.Number);
        bridge.WriteConfig8(PCI_SUBORDINATE_BUS, (byte)behind.Subordinate);
        // A window is closed by a base above its limit.
        var (start, last) = behind.Windows[(int)WindowKind.Io] is { } io ? (io.Start, io.Last) : (0xF000UL, 0UL);
        bridge.WriteConfig8(PCI_IO_BASE, (byte)((start >> 8) & 0xF0));
        bridge.WriteConfig8(PCI_IO_LIMIT, (byte)((last >> 8) & 0xF0));
        bridge.WriteConfig16(PCI_IO_BASE_UPPER16, (ushort)(start >> 16));
        bridge.WriteConfig16(PCI_IO_LIMIT_UPPER16, (ushort)(last >> 16));
        (start, last) = behind.Windows[(int)WindowKind.Memory] is { } memory ? (memory.Start, memory.Last) : (0xFFF0_0000UL, 0UL);
        bridge.WriteConfig16(PCI_MEMORY_BASE, (ushort)((start >> 16) & 0xFFF0));
        bridge.WriteConfig16(PCI_MEMORY_LIMIT, (ushort)((last >> 16) & 0xFFF0));
        (start, last) = behind.Windows[(int)WindowKind.Prefetchable] is { } prefetch ? (prefetch.Start, prefetch.Last) : (0xFFF0_0000UL, 0UL);
        bridge.WriteConfig32(PCI_PREF_BASE_UPPER32, (uint)(start >> 32));
        bridge.WriteConfig32(PCI_PREF_LIMIT_UPPER32, (uint)(last >> 32));
        bridge.WriteConfig16(PCI_PREF_MEMORY_BASE, (ushort)((start >> 16) & 0xFFF0));
        bridge.WriteConfig16(PCI_PREF_MEMORY_LIMIT, (ushort)((last >> 16) & 0xFFF0));
    }

    private static void ProgramBar(PciDevice device, int register, PciResource resource)
    {
        if (!resource.IsAssigned)
            return;
        device.WriteConfig32(register, (uint)resource.Start);
        if (resource.Kind == PciBarKind.Memory64)
            device.WriteConfig32(register + 4, (uint)(resource.Start >> 32));
    }

    // Device numbers above 0 are reached behind a port only when both ends know ARI.
    private static void EnableAri(PciDevice device)
    {
        if (device.FindExtendedCapability(PCI_EXT_CAP_ID_ARI) == 0 || device.Parent is not PciDevice port || port.FindCapability(PCI_CAP_ID_EXP) is not (> 0 and var express))
            return;
        if ((port.ReadConfig32(express + PCI_EXP_DEVCAP2) & PCI_EXP_DEVCTL2_ARI) == 0)
            return;
        var control = port.ReadConfig16(express + PCI_EXP_DEVCTL2);
        port.WriteConfig16(express + PCI_EXP_DEVCTL2, (ushort)(control | PCI_EXP_DEVCTL2_ARI));
        if (device.Sriov is { } sriov)
            device.WriteConfig16(sriov.Capability + PCI_SRIOV_CTRL, PCI_SRIOV_CTRL_ARI);
    }

    private static void SizeBars(PciDevice device, int register, Span<PciResource> resources)
    {
        for (var i = 0; i < resources.Length; i++)
        {
            var mask = Probe(device, register + (4 * i), uint.MaxValue);
            if (mask is 0 or uint.MaxValue)
                continue;
            if ((mask & 1) != 0)
            {
                // Ports have 16 address bits on many functions; the upper half then stays 0.
                var bits = mask & ~3u;
                if (bits == 0)
                    continue;
                resources[i] = new PciResource(PciBarKind.Io, SizeOf(bits > 0xFFFF ? bits : bits | 0xFFFF_0000), false, 0);
                continue;
            }
            var isPrefetchable = (mask & 8) != 0;
            if ((mask & 6) != 4)
            {
                if ((mask & ~15u) == 0)
                    continue;
                resources[i] = new PciResource(PciBarKind.Memory32, SizeOf(mask & ~15u), isPrefetchable, 0);
                continue;
            }
            if (i + 1 == resources.Length)
                continue;
            var wide = ((ulong)Probe(device, register + (4 * i) + 4, uint.MaxValue) << 32) | (mask & ~15u);
            if (wide != 0)
                resources[i] = new PciResource(PciBarKind.Memory64, 1UL << BitOperations.TrailingZeroCount(wide), isPrefetchable, 0);
            i++;
        }
    }

    private static PciResource SizeRom(PciDevice device, int register)
    {
        const uint address = 0xFFFF_F800;
        var mask = Probe(device, register, address);
        return mask is 0 or uint.MaxValue || (mask & address) == 0 ? default : new PciResource(PciBarKind.Rom, SizeOf(mask & address), false, 0);
    }

    private static uint Probe(PciDevice device, int register, uint ones)
    {
        var before = device.ReadConfig32(register);
        device.WriteConfig32(register, ones);
        var mask = device.ReadConfig32(register);
        device.WriteConfig32(register, before);
        return mask;
    }

    // The lowest bit that can be set; a mask with holes is a fault of the function and is read as its lowest bit, as Linux does.
    private static ulong SizeOf(uint bits) => 1UL << BitOperations.TrailingZeroCount(bits);
}
