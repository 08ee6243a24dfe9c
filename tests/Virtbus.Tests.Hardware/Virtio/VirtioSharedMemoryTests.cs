using System.Buffers.Binary;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>Memory that a device shares with its driver, in a BAR of its own (VIRTIO 1.3, 4.1.4.7).</summary>
public sealed class VirtioSharedMemoryTests
{
    [Fact]
    public void Region_stands_in_a_capability_and_in_a_BAR_of_its_own()
    {
        using var card = new VirtioCard(new SharingDevice((7, 0x3000)));
        Assert.Equal([new VirtioPciRegion(7, 2, 0, 0x3000)], card.Registers.SharedMemory);
        Assert.Equal(new PciBar(PciBarKind.Memory64, 0x4000, IsPrefetchable: true), card.Function.GetBar(2));
        // The other structures are where they are without.
        Assert.Equal((4, 0u, 64u), (card.Registers.Common.Bar, card.Registers.Common.Offset, card.Registers.Common.Length));
        Assert.Equal(4, card.Registers.Config!.Value.Bar);
        card.Start();
        using var plain = new VirtioCard(new VirtioRngDevice("rng"));
        Assert.Empty(plain.Registers.SharedMemory);
        Assert.Equal(PciBarKind.None, plain.Function.GetBar(2).Kind);
        Assert.Equal(0xE8, plain.Registers.Window.Capability);
    }

    [Fact]
    public void Both_sides_see_what_the_other_one_writes_at_any_width_and_nothing_is_behind_it()
    {
        var device = new SharingDevice((7, 0x1800));
        using var card = new VirtioCard(device);
        var memory = device.Shared[0].Memory;
        var bytes = new byte[64];
        new Random(1).NextBytes(bytes);
        foreach (var size in (int[])[1, 2, 4, 8, 3, 64])
        {
            card.Function.WriteBar(2, 0x123, bytes.AsSpan(0, size));
            var seen = new byte[size];
            memory.Read(0x123, seen);
            Assert.Equal(bytes[..size], seen);
            memory.Write(0x456, bytes.AsSpan(0, size));
            Assert.Equal(bytes[..size], card.Bar(2, 0x456, size));
        }

        // Over its end, and behind it.
        card.Function.WriteBar(2, 0x17FC, bytes.AsSpan(0, 8));
        Assert.Equal([.. bytes[..4], 0, 0, 0, 0], card.Bar(2, 0x17FC, 8));
        card.Function.WriteBar(2, 0x1FF8, bytes.AsSpan(0, 8));
        Assert.Equal(new byte[8], card.Bar(2, 0x1FF8, 8));
        // The window of config space reaches it too.
        memory.Write(0x20, [1, 2, 3, 4]);
        var window = card.Registers.Window.Capability;
        card.Function.WriteConfig(window + 4, [2]);
        card.Function.WriteConfig(window + 8, [0x20, 0, 0, 0]);
        card.Function.WriteConfig(window + 12, [4, 0, 0, 0]);
        Span<byte> data = stackalloc byte[4];
        card.Function.ReadConfig(window + 16, data);
        Assert.Equal(0x04030201u, BinaryPrimitives.ReadUInt32LittleEndian(data));
        card.Function.WriteConfig(window + 16, [9, 9, 9, 9]);
        Assert.Equal([9, 9, 9, 9], card.Bar(2, 0x20, 4));
    }

    [Fact]
    public void Whole_pages_can_be_mapped()
    {
        var device = new SharingDevice((7, 0x2800));
        using var card = new VirtioCard(device);
        var area = Assert.Single(card.Function.GetBarAreas(2));
        Assert.Equal((0ul, 0x2000ul), (area.Offset, area.Size));
        for (var bar = 0; bar < PciBar.Count; bar++)
            Assert.Equal(bar == 2 ? 1 : 0, card.Function.GetBarAreas(bar).Count);
        Assert.True(HostMemory.TryMap(area.File, area.FileOffset, area.Size, DmaAccess.ReadWrite, out var mapped, out _));
        using (mapped)
        {
            mapped!.Write(0x1FFC, [1, 2, 3, 4]);
            Assert.Equal([1, 2, 3, 4, 0, 0, 0, 0], card.Bar(2, 0x1FFC, 8));
        }
    }

    [Fact]
    public void Memory_without_a_file_or_that_is_only_read_is_reached_by_accesses_alone()
    {
        var device = new SharingDevice((7, 0x1000));
        using var card = new VirtioCard(device);
        var own = device.Shared[0];
        using var hidden = HostMemory.Allocate("hidden", 0x1000, out var file);
        device.Shared = [own with { Memory = hidden }];
        Assert.Empty(card.Function.GetBarAreas(2));
        card.Function.WriteBar(2, 0, [5]);
        Assert.Equal([5], card.Bar(2, 0, 1));
        using (file)
        {
            Assert.True(HostMemory.TryMap(file, 0, 0x1000, DmaAccess.Read, out var readOnly, out _, keepFile: true));
            using (readOnly)
            {
                device.Shared = [own with { Memory = readOnly! }];
                Assert.Empty(card.Function.GetBarAreas(2));
                card.Function.WriteBar(2, 0, [6]);
                Assert.Equal([5], card.Bar(2, 0, 1));
            }
        }

        device.Shared = [own];
        Assert.Single(card.Function.GetBarAreas(2));
    }

    [Fact]
    public void Long_regions_have_the_upper_halves_of_their_places()
    {
        const ulong Size = 5UL << 30;
        var device = new SharingDevice((1, Size), (200, 0x1000)) { ConfigBytes = 0 };
        using var card = new VirtioCard(device, new VirtioFunctionOptions { Vectors = 0 });
        Assert.Equal([new VirtioPciRegion(1, 2, 0, Size), new VirtioPciRegion(200, 2, Size, 0x1000)], card.Registers.SharedMemory);
        Assert.Equal(8UL << 30, card.Function.GetBar(2).Size);
        // Over the border of the two.
        card.Function.WriteBar(2, Size - 2, [1, 2, 3, 4]);
        Assert.Equal([1, 2, 3, 4], card.Bar(2, Size - 2, 4));
        var end = new byte[2];
        device.Shared[1].Memory.Read(0, end);
        Assert.Equal([3, 4], end);
        Assert.Equal([(0ul, Size), (Size, 0x1000ul)], card.Function.GetBarAreas(2).Select(static area => (area.Offset, area.Size)));
    }

    [Fact]
    public void Regions_of_one_id_and_more_than_have_room_are_refused()
    {
        foreach (var regions in ((byte, ulong)[][])[[(1, 0x1000), (1, 0x1000)], [(1, 0x1000), (2, 0x1000)]])
        {
            using var device = new SharingDevice(regions);
            Assert.Equal(Errno.EINVAL, Assert.Throws<VirtbusException>(() => new VirtioFunction(device)).Errno);
        }
    }

    [Fact]
    public void Accesses_go_on_while_the_memory_is_exchanged_and_when_it_is_gone()
    {
        var device = new SharingDevice((7, 0x1000));
        using var function = new VirtioFunction(device);
        var group = new IommuGroup(1);
        function.Plug(new QuietPort(new DmaPort("shared", group)));
        function.WriteConfig(PciHeader.PCI_COMMAND, [(byte)PciCommand.PCI_COMMAND_MEMORY, 0]);
        var isOver = false;
        Exception? error = null;
        var accesses = 0;
        var reader = new Thread(() =>
        {
            try
            {
                var bytes = new byte[8];
                while (!Volatile.Read(ref isOver))
                {
                    function.WriteBar(2, 0, bytes);
                    function.ReadBar(2, 0, bytes);
                    function.GetBarAreas(2);
                    Interlocked.Increment(ref accesses);
                }
            }
            catch (Exception e)
            {
                error = e;
            }
        });
        reader.Start();
        for (var i = 1; i <= 200; i++)
        {
            // Who had it may keep its mapping for ever.
            var before = Assert.Single(function.GetBarAreas(2)).File;
            Assert.True(group.TryClaimForUser(this, "user", out _));
            Assert.NotSame(before, Assert.Single(function.GetBarAreas(2)).File);
            // A reset changes no hands.
            function.Reset();
            group.ReleaseUser(this);
            Assert.Equal(2 * i, device.Users);
        }

        Assert.True(group.TryClaimForUser(this, "user", out _));
        function.Unplug();
        Assert.Equal(402, device.Users);
        Deadline.Until(() => Volatile.Read(ref accesses) > 100, "accesses");
        function.Dispose();
        Volatile.Write(ref isOver, true);
        reader.Join();
        Assert.Null(error);
        Assert.Empty(function.GetBarAreas(2));
        group.ReleaseUser(this);
        Assert.Equal(402, device.Users);
    }

    [Fact]
    public void Virtual_functions_have_regions_of_their_own_and_no_others_than_the_physical_one()
    {
        var made = new List<SharingDevice>();
        using var slot = new FunctionSlot();
        using var physical = new VirtioFunction(new SharingDevice((7, 0x2000)), new VirtioFunctionOptions { VirtualFunctions = 2 }, index =>
        {
            made.Add(new SharingDevice((7, index == 1 ? 0x1000UL : 0x2000)));
            return made[^1];
        });
        physical.Plug(slot);
        var sriov = physical.ConfigLayout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);
        physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_NUM_VF, [1, 0]);
        physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [PciSriov.PCI_SRIOV_CTRL_VFE | PciSriov.PCI_SRIOV_CTRL_MSE, 0]);
        var function = Assert.Single(physical.VirtualFunctions);
        Assert.Equal([new VirtioPciRegion(7, 2, 0, 0x2000)], new VirtioPciAccess(function).SharedMemory);
        Assert.Equal(new PciBar(PciBarKind.Memory64, 0x2000, IsPrefetchable: true), function.GetBar(2));
        function.WriteBar(2, 8, [1, 2]);
        var seen = new byte[2];
        made[0].Shared[0].Memory.Read(8, seen);
        Assert.Equal([1, 2], seen);
        var area = Assert.Single(function.GetBarAreas(2));
        Assert.Same(made[0].Shared[0].Memory.File, area.File);
        Assert.NotSame(((SharingDevice)physical.Device).Shared[0].Memory.File, area.File);
    }
}
