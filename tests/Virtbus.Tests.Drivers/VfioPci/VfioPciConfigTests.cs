using Virtbus.Drivers.VfioPci;
using Virtbus.Hardware.Probe;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>Config space as a user sees it (section 7.2 of the semantics).</summary>
public sealed class VfioPciConfigTests
{
    private const int Command = 0x04;
    private const byte Pm = 0x01, Msi = 0x05, Express = 0x10, MsiX = 0x11;

    [Fact]
    public async Task Capabilities_are_those_that_a_user_may_have()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction(virtualFunctions: 4));
        using var user = VfioPciWorld.Open(device);
        Assert.All(new[] { Pm, Msi, Express, MsiX }, id => Assert.Equal(device.FindCapability(id), user.Capability(id)));
        Assert.Equal([0x0001, 0x000E], ExtendedIds(user));

        // Of address translation, PASIDs and SR-IOV not a byte is to be seen, and none can be written.
        foreach (ushort id in new ushort[] { 0x000F, 0x001B, 0x0010 })
        {
            var at = device.FindExtendedCapability(id);
            Assert.NotEqual(0, at);
            Assert.Equal(0u, user.Config32(at));
            user.Config32(at + 4, uint.MaxValue);
            user.Config32(at + 8, uint.MaxValue);
            Assert.Equal(0u, user.Config32(at + 4));
            Assert.Equal(0u, user.Config32(at + 8));
        }
        Assert.Empty(device.VirtualFunctions);
    }

    [Fact]
    public async Task Hidden_capability_at_the_head_of_the_extended_list_leaves_the_list_whole()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new HeadlessFunction());
        using var user = VfioPciWorld.Open(device);
        Assert.Equal(0x000F, device.ReadConfig16(0x100));
        Assert.Equal(0u, user.Config32(0x100) & 0xFFFFF);
        Assert.Equal([0, 0x0003], ExtendedIds(user));
        Assert.Equal(0x1122334455667788ul, user.Read(PciUser.Config, (ulong)device.FindExtendedCapability(0x0003) + 4, 8));
    }

    [Fact]
    public async Task Bars_are_sized_by_the_user_without_touching_the_real_ones()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        var real = Enumerable.Range(0, 7).Select(i => device.ReadConfig32(i == 6 ? 0x30 : 0x10 + (4 * i))).ToArray();
        using var user = VfioPciWorld.Open(device);
        uint[] offsets = [0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x30];
        uint[] sized = [0xFFFFC000, 0xFFFFFFE1, 0xFFFF000C, 0xFFFFFFFF, 0, 0, 0xFFFFF001];
        foreach (var (offset, expected) in offsets.Zip(sized))
        {
            var before = user.Config32((int)offset);
            user.Config32((int)offset, uint.MaxValue);
            Assert.Equal(expected, user.Config32((int)offset));
            user.Config32((int)offset, before);
            Assert.Equal(before, user.Config32((int)offset));
        }
        // Byte by byte as well.
        for (var i = 0; i < 4; i++)
            user.Write(PciUser.Config, (ulong)(0x10 + i), 1, 0xFF);
        Assert.Equal(0xFFFFC000u, user.Config32(0x10));
        Assert.Equal(real, Enumerable.Range(0, 7).Select(i => device.ReadConfig32(i == 6 ? 0x30 : 0x10 + (4 * i))));
        // Where the user puts a BAR makes no difference to its region.
        Assert.Equal(0x00ED5642u, user.Read32(0, ScratchRegister.Id));
    }

    [Fact]
    public async Task Memory_and_ports_follow_the_command_register_that_the_user_wrote()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        Assert.Equal(3, user.Config16(Command));
        Assert.Equal(3, device.ReadConfig16(Command) & 7);
        user.Config16(Command, 1);
        Assert.Equal(Errno.EIO, user.ErrorOfRead(0, 0, 4));
        Assert.Equal(Errno.EIO, user.ErrorOfWrite(2, 0, 4));
        Assert.Equal(Errno.EIO, user.ErrorOfRead(6, 0, 4));
        user.Write(1, 3, 1, 0x5A);
        Assert.Equal(1, device.ReadConfig16(Command) & 7);
        user.Config16(Command, 2);
        Assert.Equal(Errno.EIO, user.ErrorOfRead(1, 3, 1));
        Assert.Equal(0x00ED5642u, user.Read32(0, ScratchRegister.Id));
        user.Config16(Command, 7);
        Assert.Equal(0x5Aul, user.Read(1, 3, 1));
        Assert.True(device.Dma.IsBusMaster);
        // The interrupt disable bit is noted; bits that the function has not are not.
        user.Config16(Command, 0xFFFF);
        Assert.Equal(0x547, user.Config16(Command));
        user.Config16(Command, 0);
        Assert.False(device.Dma.IsBusMaster);
        Assert.Equal(0, device.ReadConfig16(Command) & 7);
    }

    [Fact]
    public async Task Virtual_function_has_ids_bars_and_memory_enable_of_the_image()
    {
        var world = await VfioPciWorld.NewAsync();
        var physical = await world.Bus.PlugAsync(new ScratchFunction(virtualFunctions: 2));
        physical.Enable();
        await physical.SetVirtualFunctionsAsync(2).In();
        var device = physical.VirtualFunctions[1];
        await world.BindAsync(device, "vfio-pci");
        var hardware = new byte[4];
        device.Function.ReadConfig(0, hardware);
        Assert.Equal([0xFF, 0xFF, 0xFF, 0xFF], hardware);
        using var user = VfioPciWorld.Open(device);
        Assert.Equal(0x00EE5642u, user.Config32(0));
        Assert.Equal(2, user.Config16(Command));
        Assert.Equal(2u, user.Read32(0, ScratchRegister.Index));
        user.Config32(0x10, uint.MaxValue);
        Assert.Equal(0xFFFFC004u, user.Config32(0x10));
        user.Config32(0x14, uint.MaxValue);
        Assert.Equal(0xFFFFFFFFu, user.Config32(0x14));
        Assert.Equal(0u, user.Config32(0x3C) >> 8 & 0xFF);
        user.Config16(Command, 0);
        Assert.Equal(0, user.Config16(Command));
        Assert.Equal(Errno.EIO, user.ErrorOfRead(0, 0, 4));
        user.Config16(Command, 6);
        Assert.Equal(2u, user.Read32(0, ScratchRegister.Index));
        Assert.True(device.Dma.IsBusMaster);
        Assert.True(user.Handle.TryGetIrqInfo(0, out var line, out _));
        Assert.Equal(0u, line.Count);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Reset_by_config_space_or_by_RESET_clears_the_function_and_keeps_what_was_configured(bool byConfig)
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        var resets = user.Read32(0, ScratchRegister.ResetCount);
        user.Write32(0, ScratchRegister.Memory, 0xCAFE);
        user.Config16(Command, 7);
        user.Config32(0x10, 0xABCD4000);
        if (byConfig)
        {
            var control = user.Capability(Express) + 8;
            user.Config16(control, user.Config16(control) | 0x8000);
            Assert.Equal(0, user.Config16(control) & 0x8000);
        }
        else
        {
            Assert.True(user.Handle.TryReset(out var fault), fault.Message);
        }
        Assert.Equal(resets + 1, user.Read32(0, ScratchRegister.ResetCount));
        Assert.Equal(0u, user.Read32(0, ScratchRegister.Memory));
        Assert.Equal(7, user.Config16(Command));
        Assert.Equal(0xABCD4000, user.Config32(0x10));
        Assert.True(device.Dma.IsBusMaster);
    }

    [Fact]
    public async Task Power_state_is_the_images_and_registers_sleep_with_it()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        var power = user.Capability(Pm);
        Assert.Equal(0, user.Config16(power + 2) & 0xF800);
        var resets = user.Read32(0, ScratchRegister.ResetCount);
        user.Config16(power + 4, 1);
        Assert.Equal(0, user.Config16(power + 4) & 3);
        user.Config16(power + 4, 3);
        Assert.Equal(3, user.Config16(power + 4) & 3);
        Assert.Equal(0, device.ReadConfig16(power + 4) & 3);
        Assert.Equal(Errno.EIO, user.ErrorOfRead(0, 0, 4));
        user.Config16(power + 4, 0);
        // This function has no soft-reset exemption: it comes back as after a reset.
        Assert.Equal(resets + 1, user.Read32(0, ScratchRegister.ResetCount));
    }

    [Fact]
    public async Task Message_capabilities_take_writes_as_notes_only()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        int msi = user.Capability(Msi), msix = user.Capability(MsiX);
        user.Config16(msi + 2, 0x31);
        user.Config32(msi + 4, 0xFEE01233);
        user.Config32(msi + 8, 0x1);
        user.Config32(msi + 12, 0x4711);
        user.Config16(msix + 2, 0xFFFF);
        Assert.Equal(0x31, user.Config16(msi + 2) & 0x71);
        Assert.Equal(0xFEE01230u, user.Config32(msi + 4));
        Assert.Equal(1u, user.Config32(msi + 8));
        Assert.Equal(0x4711u, user.Config32(msi + 12) & 0xFFFF);
        Assert.Equal(0xC007, user.Config16(msix + 2));
        Assert.Equal(0, device.ReadConfig16(msi + 2) & 0x71);
        Assert.Equal(0, device.ReadConfig16(msix + 2) & 0xC000);
        Assert.Equal(device.ReadConfig32(msix + 4), user.Config32(msix + 4));
    }

    [Fact]
    public async Task More_than_a_function_is_capable_of_never_reads_back()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        int msi = user.Capability(Msi), control = user.Capability(Express) + 8;
        var capable = (user.Config16(msi + 2) & 0xE) >> 1;
        Assert.Equal(3, capable);
        user.Config16(msi + 2, 0x70);
        Assert.Equal(capable, (user.Config16(msi + 2) & 0x70) >> 4);
        // By its byte alone too.
        user.Write(PciUser.Config, (ulong)msi + 2, 1, 0x60);
        Assert.Equal(capable, (user.Config16(msi + 2) & 0x70) >> 4);
        // And with vectors set up no more than those: three need two bits.
        using var signal = new EventFd();
        user.SetTrigger(VfioPciIrq.VFIO_PCI_MSI_IRQ_INDEX, 0, signal, signal, signal);
        user.Config16(msi + 2, 0x71);
        Assert.Equal(0x21, user.Config16(msi + 2) & 0x71);
        user.Config16(msi + 2, 0x11);
        Assert.Equal(0x11, user.Config16(msi + 2) & 0x71);
        user.Config32(msi + 16, uint.MaxValue);
        Assert.Equal(0xFFu, user.Config32(msi + 16));
        // Payload of 256 bytes, reads of 4096.
        user.Config16(control, 0x70E0);
        Assert.Equal(0x5020, user.Config16(control) & 0x70E0);
    }

    [Fact]
    public async Task Sizes_of_requests_are_noted_and_the_systems_stay()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        var control = user.Capability(Express) + 8;
        var real = device.ReadConfig16(control);
        user.Config16(control, (real & ~0x70E0) | 0x3020 | 0x000F);
        Assert.Equal(0x3020, user.Config16(control) & 0x70E0);
        Assert.Equal(real & 0x70E0, device.ReadConfig16(control) & 0x70E0);
        Assert.Equal(0x000F, device.ReadConfig16(control) & 0x000F);
    }

    /// <summary>
    /// Anything written anywhere, in any size: the function's own config space changes only in what is the user's, and each byte of the image is
    /// what was written where it may be, and what it was elsewhere.
    /// </summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public async Task Random_writes_change_nothing_that_is_the_systems(int seed)
    {
        var random = new Random(seed);
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction(virtualFunctions: 2));
        var before = new byte[4096];
        using var user = VfioPciWorld.Open(device);
        device.ReadConfig(0, before);
        int express = user.Capability(Express), errors = device.FindExtendedCapability(1);
        var mine = new HashSet<int>([Command, Command + 1, 6, 7, 0x0C, 0x0D, express + 8, express + 9, express + 0xA, express + 0xB, express + 0x28, express + 0x29]);
        mine.UnionWith(Enumerable.Range(errors + 4, 0x14));
        for (var i = 0; i < 3000; i++)
        {
            var size = 1 << random.Next(0, 4);
            var offset = random.Next(0, 4096 / size) * size;
            var bytes = new byte[size];
            random.NextBytes(bytes);
            Assert.True(user.Handle.TryWrite(PciUser.Config, (ulong)offset, bytes, out _));
            var space = user.ConfigSpace();
            Assert.Equal(space, user.ConfigSpace());
        }
        var after = new byte[4096];
        device.ReadConfig(0, after);
        for (var i = 0; i < after.Length; i++)
            Assert.True(before[i] == after[i] || mine.Contains(i), $"byte 0x{i:x} went from {before[i]:x2} to {after[i]:x2}");
        // What was read is what is there: writing it back changes nothing, but for errors that a 1 clears.
        user.Config16(Command, 2);
        var image = user.ConfigSpace();
        for (var i = 0x40; i < 0x100; i++)
            user.Write(PciUser.Config, (ulong)i, 1, image[i]);
        Assert.Equal(image[0x40..0x100], user.ConfigSpace()[0x40..0x100]);
    }

    [Fact]
    public async Task Function_that_is_gone_reads_as_all_ones()
    {
        var world = await VfioPciWorld.NewAsync();
        var function = new ScratchFunction();
        var device = await world.PlugAsync(function);
        var user = VfioPciWorld.Open(device);
        function.Break();
        // The bus may take the function away at any moment now.
        var bytes = new byte[4];
        if (user.Handle.TryRead(PciUser.Config, 0, bytes, out var fault))
            Assert.True(bytes.All(b => b == 0xFF) || bytes.SequenceEqual(new byte[] { 0x42, 0x56, 0xED, 0 }));
        else
            Assert.Equal(Errno.ENODEV, fault.Errno);
        using var gone = new ManualResetEventSlim();
        user.Handle.SetRequestCallback(revoked =>
        {
            if (revoked)
                gone.Set();
        });
        Assert.True(gone.Wait(TimeSpan.FromSeconds(20)));
        Assert.Equal(Errno.ENODEV, user.ErrorOfRead(PciUser.Config, 0, 4));
        user.Dispose();
    }

    [Fact]
    public void Overlap_of_access_and_register_is_found_for_every_pair()
    {
        for (var offset = 0; offset < 12; offset++)
        {
            for (var length = 0; length < 12; length++)
            {
                for (var size = 0; size < 6; size++)
                {
                    const int register = 4;
                    var common = Enumerable.Range(offset, length).Intersect(Enumerable.Range(register, size)).ToArray();
                    Assert.Equal(common.Length > 0, VfioPciOverlap.TryFind((ulong)offset, length, register, size, out var overlap));
                    if (common.Length > 0)
                        Assert.Equal((common[0] - offset, common[0] - register, common.Length), (overlap.BufferOffset, overlap.RegisterOffset, overlap.Count));
                }
            }
        }
        Assert.True(VfioPciOverlap.TryFind(ulong.MaxValue - 3, 4, ulong.MaxValue, 1, out var last));
        Assert.Equal((3, 0, 1), (last.BufferOffset, last.RegisterOffset, last.Count));
    }

    private static List<int> ExtendedIds(PciUser user)
    {
        var ids = new List<int>();
        for (var at = 0x100; at != 0; at = (int)(user.Config32(at) >> 20))
            ids.Add((int)user.Config32(at) & 0xFFFF);
        return ids;
    }
}
