using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Transports.VfioUser;

/// <summary>The descriptor that goes with a message.</summary>
internal enum QemuDescriptor
{
    None,
    Memory,
    EventFd,
}

/// <summary>One message of a recorded session; <paramref name="Room"/> is what the answer may have beyond the request's own payload.</summary>
internal readonly record struct QemuMessage(
    VfioUserCommand Command, byte[] Payload, QemuDescriptor Descriptor = QemuDescriptor.None, uint Flags = 0, int Room = 0);

/// <summary>Sessions of real clients, as steps: the messages of one step are sent without waiting for answers.</summary>
internal static class QemuRecording
{
    /// <summary>QEMU 11.1.3 with a q35 machine, from the connect to a guest's driver that uses MSI-X, a reset, and a guest's IOMMU.</summary>
    internal static List<QemuMessage[]> Start(bool shared)
    {
        var memory = shared ? QemuDescriptor.Memory : QemuDescriptor.None;
        List<QemuMessage[]> steps =
        [
            [new(VERSION, Version(QemuText))],
            // The memory listener: low memory, the BIOS, high memory.
            [
                new(DMA_MAP, Map(0, 0xa0000 - 0x80000), memory),
                new(DMA_MAP, Map(0xc0000, 0x20000, 0x10000, 1), memory),
                new(DMA_MAP, Map(0x1_0000_0000, 0x40000), memory),
            ],
            [new(DEVICE_GET_INFO, Words(16, 0, 0, 0))],
        ];
        foreach (var region in new uint[] { 0, 1, 2, 3, 4, 5, 7 })
            steps.Add([new(DEVICE_GET_REGION_INFO, [.. Words(32, 0, region, 0), .. Longs(0, 0)])]);
        steps.Add([new(DEVICE_GET_REGION_INFO, [.. Words(80, 0, 2, 0), .. Longs(0, 0)], Room: 80)]);
        steps.Add([new(DEVICE_GET_IRQ_INFO, Words(16, 0, 3, 0))]);
        steps.Add([new(REGION_READ, Access(7, 0, 256), Room: 16 + 256)]);
        Write(steps, 0x30, 0xfffff800);
        Read(steps, 0x30);
        for (var bar = 0x10u; bar < 0x28; bar += 4)
            Read(steps, bar);
        Read(steps, 0xb2, 2);
        Read(steps, 0xb4);
        Read(steps, 0xb8);
        steps.Add([new(DEVICE_GET_IRQ_INFO, Words(16, 0, 2, 0))]);
        Read(steps, 0xa2, 2);
        Read(steps, 0x3d, 1);
        steps.Add([new(DEVICE_SET_IRQS, Irqs(0x24, 0, 0, 1), QemuDescriptor.EventFd)]);
        steps.Add([new(DEVICE_SET_IRQS, Irqs(0x24, 3, 0, 1), QemuDescriptor.EventFd)]);
        // The machine's reset.
        steps.Add([new(DEVICE_SET_IRQS, Irqs(0x21, 0, 0, 0))]);
        Read(steps, 4, 2);
        Write(steps, 4, 0, 2);
        steps.Add([new(DEVICE_RESET, [])]);
        steps.Add([new(DEVICE_SET_IRQS, Irqs(0x24, 0, 0, 1), QemuDescriptor.EventFd)]);
        for (var bar = 0x10u; bar < 0x28; bar += 4)
            Write(steps, bar, 0);
        // Firmware and guest: identity, sizing, decoding on, driver.
        Read(steps, 0, 4);
        for (var bar = 0x10u; bar < 0x28; bar += 4)
        {
            Write(steps, bar, 0xffffffff);
            Write(steps, bar, 0xfe000000);
        }

        // Memory decoding: areas that can be mapped come back as memory of the machine, without descriptor.
        Write(steps, 4, 6, 2);
        steps.Add([new(DMA_MAP, Map(0xfe001000, 0x1000)), new(DMA_MAP, Map(0xfe003000, 0x1000))]);
        steps.Add([new(REGION_READ, Access(0, 0x100, 4), Room: 20)]);
        steps.Add([new(REGION_WRITE, Access(0, 0x100, 4, 1, 2, 3, 4))]);
        steps.Add([new(REGION_WRITE, Access(4, 4, 1, 9))]);
        // Posted writes, several in one message.
        byte[] entries = [.. Longs(0x104), .. Words(0, 4), .. Longs(1), .. Longs(0x108), .. Words(0, 2), .. Longs(2)];
        steps.Add([new(REGION_WRITE, Access(0, 0x10c, 4, 1, 1, 1, 1), Flags: 0x10), new(REGION_WRITE_MULTI, [.. Longs(2), .. entries], Flags: 0x10)]);
        // MSI-X: INTx away, enable without a descriptor, then one a vector as the guest unmasks each.
        steps.Add([new(DEVICE_SET_IRQS, Irqs(0x21, 0, 0, 0))]);
        steps.Add([new(DEVICE_SET_IRQS, Irqs(0x24, 2, 0, 1))]);
        for (var vector = 0u; vector < 3; vector++)
            steps.Add([new(DEVICE_SET_IRQS, Irqs(0x24, 2, vector, 1), QemuDescriptor.EventFd)]);
        // A guest's IOMMU: everything goes, far more than there is, and single pages come, without waiting in between.
        steps.Add(
        [
            new(DMA_UNMAP, Unmap(0, 0xfee00000)),
            new(DMA_UNMAP, Unmap(0xfef00000, 0xffffffff01100000)),
            new(DMA_MAP, Map(0xffff0000, 0x1000, 0x1000), memory),
            new(DMA_MAP, Map(0xfffef000, 0x1000, 0x3000), memory),
            new(DMA_UNMAP, Unmap(0xffff0000, 0x1000)),
            new(DMA_MAP, Map(0xffff0000, 0x1000, 0x2000), memory),
            new(DMA_UNMAP, Unmap(0x8000_0000_0000, 0x7fff_8000_0000_0000)),
        ]);
        return steps;
    }

    private static void Read(List<QemuMessage[]> steps, uint offset, uint size = 4) =>
        steps.Add([new(REGION_READ, Access(7, offset, size), Room: 16 + (int)size)]);

    private static void Write(List<QemuMessage[]> steps, uint offset, uint value, uint size = 4) =>
        steps.Add([new(REGION_WRITE, Access(7, offset, size, Words(value)[..(int)size]))]);
}
