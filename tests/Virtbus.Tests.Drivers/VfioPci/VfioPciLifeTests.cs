using System.Buffers.Binary;
using System.Reflection;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.ScratchVfioPci;
using Virtbus.Drivers.VfioPci;
using Virtbus.Hardware.Probe;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>Functions under the generic driver and the variants: who owns what, what is left behind (VP-01 to VP-10, VS-01, VS-15, VS-17).</summary>
public sealed class VfioPciLifeTests
{
    private const uint Req = 4, MsiX = 2;

    [Fact]
    public async Task Generic_driver_binds_only_when_asked()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.Bus.PlugAsync(new ScratchFunction());
        Assert.Null(device.Driver);
        await world.BindAsync(device, "vfio-pci");
        Assert.Same(world.Generic, device.Driver);
        Assert.Equal(device.Name, VfioPciWorld.DeviceOf(device).Label);
        Assert.Equal(DmaOwnerKind.None, device.IommuGroup.OwnerKind);
    }

    [Fact]
    public async Task Bridge_is_refused()
    {
        var world = await VfioPciWorld.NewAsync();
        var port = await world.Bus.AddPortAsync(world.Bus.HostBridges[0]);
        world.Fabric.SetDriverOverride(port, "vfio-pci");
        var e = await Assert.ThrowsAsync<VirtbusException>(() => world.Fabric.BindAsync(world.Generic, port.Name).AsTask());
        Assert.Equal(Errno.EINVAL, e.Errno);
        Assert.Contains("bridge", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Open_takes_the_dma_and_close_gives_it_back()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using (VfioPciWorld.Open(device))
        {
            Assert.Equal(DmaOwnerKind.User, device.IommuGroup.OwnerKind);
            Assert.Equal("web1", device.IommuGroup.OwnerName);
            Assert.False(device.IommuGroup.TryAllocate(4096, out _, out var fault));
            Assert.Equal(Errno.EPERM, fault.Errno);
        }
        Assert.Equal(DmaOwnerKind.None, device.IommuGroup.OwnerKind);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Open_gives_the_function_out_without_bus_mastering_whatever_was_set_before(bool hasReset)
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(hasReset ? new ScratchFunction() : new HeadlessFunction(hasReset: false));
        device.SetMaster(true);
        Assert.True(device.Dma.IsBusMaster);
        using var user = VfioPciWorld.Open(device);
        Assert.False(device.Dma.IsBusMaster);
        Assert.Equal(0, device.ReadConfig16(4) & 4);
        Assert.Equal(0, user.Config16(4) & 4);
        user.Config16(4, 4);
        Assert.True(device.Dma.IsBusMaster);
    }

    [Fact]
    public async Task Open_of_a_function_whose_dma_belongs_to_another_is_EBUSY_and_leaves_it_alone()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        Assert.True(device.IommuGroup.TryClaimForDriver("other", out _));
        Assert.False(VfioPciWorld.DeviceOf(device).TryOpen("web1", out _, out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(device.IsEnabled);
        device.IommuGroup.ReleaseDriver("other");
        VfioPciWorld.Open(device).Dispose();
    }

    [Fact]
    public async Task Close_leaves_the_function_disabled_and_as_after_a_reset_however_it_was_left()
    {
        var world = await VfioPciWorld.NewAsync();
        var function = new ScratchFunction();
        var device = await world.PlugAsync(function);
        var before = ConfigOf(device);
        for (var i = 0; i < 3; i++)
        {
            using var signal = new EventFd();
            using var line = new EventFd();
            using var doorbell = new EventFd();
            using var space = new IoAddressSpace();
            var user = VfioPciWorld.Open(device);
            Assert.Equal(0u, user.Read32(0, ScratchRegister.Memory));
            user.Config16(4, 0x547);
            user.Config16(0x0C, 0x4010);
            user.Config16(user.Capability(0x10) + 8, 0x2F1F);
            user.Config16(user.Capability(0x10) + 0x28, 0x1);
            user.Config32(device.FindExtendedCapability(1) + 8, 0xFFFFFFFF);
            user.Config32(0x10, 0x12340000);
            user.SetTrigger(MsiX, 0, signal);
            user.SetTrigger(Req, 0, signal);
            Assert.True(user.Handle.TryAttach(space, null, out _));
            Assert.True(user.Handle.TryAttach(space, 5, out _));
            Assert.True(user.Handle.TryAttachDoorbell(0, Assert.Single(user.Handle.GetDoorbells(0)), doorbell, out var fault), fault.Message);
            doorbell.Signal();
            using (var deadline = new CancellationTokenSource(TimeSpan.FromSeconds(20)))
            {
                while (user.Read32(0, ScratchRegister.DoorbellCount) == 0)
                    deadline.Token.ThrowIfCancellationRequested();
            }
            user.Write32(0, ScratchRegister.Memory, 0x5EC2E7);
            user.Dispose();

            Assert.Equal(before, ConfigOf(device));
            Assert.False(device.IsEnabled);
            Assert.False(device.Dma.IsBusMaster);
            Assert.Null(device.Dma.AddressSpace);
            Assert.Null(device.Dma.ForPasid(5).AddressSpace);
            Assert.Empty(device.Vectors);
            Assert.Equal(DmaOwnerKind.None, device.IommuGroup.OwnerKind);
            // Its eventfd stands for the doorbell no more, and nothing of its memory is left.
            doorbell.Signal();
            Assert.Equal(0u, Register(function, ScratchRegister.Memory));
            Assert.Equal(0u, Register(function, ScratchRegister.DoorbellCount));
            Assert.Equal(1ul, PciUser.Count(doorbell));
        }
    }

    [Fact]
    public async Task Memory_that_a_user_keeps_mapped_is_not_that_of_the_next_one()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        HostMemory kept;
        using (var first = VfioPciWorld.Open(device))
        {
            kept = Map(first);
            first.Config16(4, 2);
            first.Write32(2, 0, 0x11);
            Assert.Equal(0x11, Byte(kept));
            // A reset is no change of users: what it has mapped stays the function's.
            Assert.True(first.Handle.TryReset(out _));
            Assert.Equal(0, Byte(kept));
            first.Write32(2, 0, 0x22);
            Assert.Equal(0x22, Byte(kept));
        }
        using (kept)
        using (var second = VfioPciWorld.Open(device))
        {
            second.Config16(4, 2);
            kept.Write(0, [0x33]);
            Assert.Equal(0u, second.Read32(2, 0));
            second.Write32(2, 0, 0x44);
            Assert.Equal(0x33, Byte(kept));
            using var own = Map(second);
            Assert.Equal(0x44, Byte(own));
        }

        static HostMemory Map(PciUser user)
        {
            Assert.True(user.Handle.TryGetRegionInfo(2, out var region, out _));
            var area = Assert.Single(region!.Areas);
            using var file = area.File.Duplicate();
            Assert.True(HostMemory.TryMap(file, area.FileOffset, area.Size, DmaAccess.ReadWrite, out var memory, out var fault), fault.Message);
            return memory!;
        }

        static byte Byte(HostMemory memory)
        {
            Span<byte> value = stackalloc byte[1];
            memory.Read(0, value);
            return value[0];
        }
    }

    [Fact]
    public async Task Function_reaches_what_its_user_attached_and_the_log_has_what_it_wrote()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var memory = HostMemory.Allocate("guest", 1 << 20, out _);
        using var space = new IoAddressSpace();
        Assert.True(space.TryMap(new Iova(0x100000), 1 << 20, memory, 0, DmaAccess.ReadWrite, out _));
        using var user = VfioPciWorld.Open(device);
        using var done = new EventFd();
        user.SetTrigger(MsiX, 0, done);
        user.Config16(4, 7);
        user.Write32(0, ScratchRegister.InterruptEnable, 7);
        user.Write32(2, 0, 0xC0FFEE);

        // Nothing is attached yet.
        Assert.Equal(3u, Transfer(user, done, 0x101000, null));
        Assert.True(user.Handle.TryAttach(space, null, out _));
        var log = new VfioDmaLogging(device.Dma);
        var pageSize = 4096ul;
        Assert.False(log.TryReport(new IovaRange(new Iova(0x100000), 1 << 20), 4096, new ulong[4], out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.True(log.TryStart(ref pageSize, [new IovaRange(new Iova(0x100000), 1 << 20)], out _));
        Assert.False(log.TryStart(ref pageSize, [], out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.Equal(2u, Transfer(user, done, 0x103FFE, null));
        var bitmap = new ulong[4];
        Assert.True(log.TryReport(new IovaRange(new Iova(0x100000), 1 << 20), 4096, bitmap, out _));
        Assert.Equal([0b11000ul, 0, 0, 0], bitmap);
        bitmap[0] = 0;
        Assert.True(log.TryReport(new IovaRange(new Iova(0x100000), 1 << 20), 4096, bitmap, out _));
        Assert.Equal(0ul, bitmap[0]);
        log.Stop();
        log.Stop();

        // By PASID only where that one is attached.
        Assert.Equal(3u, Transfer(user, done, 0x101000, 9));
        Assert.True(user.Handle.TryAttach(space, 9, out _));
        Assert.True(user.Handle.TryAttach(null, null, out _));
        Assert.Equal(2u, Transfer(user, done, 0x101000, 9));
        Assert.Equal(3u, Transfer(user, done, 0x101000, null));
        Span<byte> read = stackalloc byte[4];
        memory.Read(0x1000, read);
        Assert.Equal(0xC0FFEEu, BinaryPrimitives.ReadUInt32LittleEndian(read));
    }

    [Fact]
    public async Task Function_without_pasids_has_none()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new HeadlessFunction());
        using var user = VfioPciWorld.Open(device);
        using var space = new IoAddressSpace();
        Assert.False(user.Handle.TryAttach(space, 1, out var fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
    }

    [Fact]
    public async Task Doorbells_are_the_functions_and_no_others()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        using var user = VfioPciWorld.Open(device);
        var doorbell = Assert.Single(user.Handle.GetDoorbells(0));
        Assert.Equal((ulong)ScratchRegister.Doorbell, doorbell.Offset);
        Assert.Empty(user.Handle.GetDoorbells(2));
        using var signal = new EventFd();
        Assert.False(user.Handle.TryAttachDoorbell(0, doorbell with { Offset = 0x40 }, signal, out var fault));
        Assert.Equal(Errno.ENOENT, fault.Errno);
    }

    [Fact]
    public async Task Signal_counts_as_a_write_only_while_the_user_has_memory_enabled()
    {
        var world = await VfioPciWorld.NewAsync();
        using var user = VfioPciWorld.Open(await world.PlugAsync(new ScratchFunction()));
        using var signal = new EventFd();
        user.Config16(4, 0);
        Assert.True(user.Handle.TryAttachDoorbell(0, Assert.Single(user.Handle.GetDoorbells(0)), signal, out var fault), fault.Message);
        for (var round = 1u; round < 4; round++)
        {
            signal.Signal();
            user.Config16(4, 2);
            // Lost, as the write would be, and the next one comes.
            signal.Signal();
            Deadline.Until(() => user.Read32(0, ScratchRegister.DoorbellCount) == round, "the doorbell");
            user.Config16(4, 0);
        }

        signal.Signal();
        Assert.Equal(1ul, PciUser.Count(signal));
    }

    [Fact]
    public async Task Function_without_reset_says_so_and_opens_all_the_same()
    {
        var world = await VfioPciWorld.NewAsync();
        var host = world.Bus.HostBridges[0];
        // Of two functions in one slot neither can have the slot's reset.
        var device = await world.Bus.AddFunctionAsync(host, new HeadlessFunction(hasReset: false), 5, 0);
        await world.Bus.AddFunctionAsync(host, new ScratchFunction(), 5, 1);
        await world.BindAsync(device, "vfio-pci");
        using var user = VfioPciWorld.Open(device);
        Assert.False(user.Handle.Info.CanReset);
        Assert.False(user.Handle.TryReset(out var fault));
        Assert.Equal(Errno.EOPNOTSUPP, fault.Errno);
    }

    [Fact]
    public async Task Unbind_signals_the_users_request_eventfd_until_it_lets_go()
    {
        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(new ScratchFunction());
        var user = VfioPciWorld.Open(device);
        using var request = new EventFd();
        user.SetTrigger(Req, 0, request);
        var unbind = world.UnbindAsync(device);
        Assert.True(PciUser.Arrives(request));
        Assert.False(unbind.IsCompleted);
        using (var deadline = new CancellationTokenSource(TimeSpan.FromSeconds(20)))
        {
            while (world.Time.Timers == 0)
            {
                deadline.Token.ThrowIfCancellationRequested();
                await Task.Yield();
            }
        }
        world.Time.Advance(VfioDevice.RequestInterval);
        Assert.True(PciUser.Arrives(request));
        user.Dispose();
        await unbind.In();
        Assert.Null(device.Driver);
    }

    [Fact]
    public async Task Surprise_removal_under_a_user_frees_everything()
    {
        var world = await VfioPciWorld.NewAsync();
        var function = new ScratchFunction();
        var device = await world.PlugAsync(function);
        var user = VfioPciWorld.Open(device);
        using var signal = new EventFd();
        user.SetTrigger(MsiX, 0, signal);
        var group = device.IommuGroup;
        using var told = new ManualResetEventSlim();
        user.Handle.SetRequestCallback(revoked =>
        {
            if (revoked)
                told.Set();
        });
        await world.Bus.SurpriseRemoveAsync(device).In();
        Assert.True(told.IsSet);
        Assert.Equal(Errno.ENODEV, user.ErrorOfRead(0, 0, 4));
        Assert.Equal(DmaOwnerKind.None, group.OwnerKind);
        user.Dispose();
        Assert.DoesNotContain(world.Lines.Lines, l => l.StartsWith("Error", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Function_moves_between_its_own_driver_the_generic_one_and_the_variant()
    {
        var world = await VfioPciWorld.NewAsync(w => new ScratchVfioPciDriver(w.Bus));
        var host = new HostDriver(world.Bus);
        await world.Fabric.RegisterDriverAsync(host);
        var device = await world.Bus.PlugAsync(new ScratchFunction());
        Assert.Same(host, device.Driver);
        Assert.Equal(DmaOwnerKind.Driver, device.IommuGroup.OwnerKind);
        foreach (var name in new[] { "vfio-pci", "scratch-vfio-pci", "host", "scratch-vfio-pci" })
        {
            await world.BindAsync(device, name);
            Assert.Equal(name, device.Driver!.Name);
            if (name == "host")
                continue;
            using var user = VfioPciWorld.Open(device);
            // The variant hides the count of resets, the generic driver does not.
            Assert.Equal(name == "vfio-pci", user.Read32(0, ScratchRegister.ResetCount) != 0);
            Assert.Equal(name == "vfio-pci", user.Read(0, ScratchRegister.ResetCount - 2, 1) != 0 || user.Read(0, ScratchRegister.ResetCount, 1) != 0);
            Assert.Equal(0x00ED5642u, user.Read32(0, ScratchRegister.Id));
        }
    }

    [Fact]
    public void Smallest_variant_is_below_150_lines()
    {
        var folder = Path.Combine(RepositoryRoot, "src/Drivers/ScratchVfioPci");
        Assert.InRange(Directory.EnumerateFiles(folder, "*.cs").Sum(f => File.ReadLines(f).Count()), 1, 149);
    }

    [Fact]
    public void Tool_box_has_no_driver_and_the_generic_driver_looks_at_no_vendor()
    {
        Assert.DoesNotContain(typeof(VfioPciFunction).Assembly.GetTypes(), typeof(Driver).IsAssignableFrom);
        var id = Assert.Single(new VfioPciDriver(new PciBus()).IdTable);
        Assert.Equal(new PciDeviceId(IsOverrideOnly: true), id);
    }

    /// <summary>Makers and classes that Linux's generic driver has had special cases for, beside one that nobody knows.</summary>
    [Fact]
    public async Task Function_is_handed_out_alike_whoever_made_it_and_whatever_it_is()
    {
        string? first = null;
        foreach (var (vendor, id, classCode) in new (ushort, ushort, uint)[]
            { (0x5642, 0x7777, 0xFF0000), (0x8086, 0x3E92, 0x030000), (0x10DE, 0x1DB1, 0x030200), (0x1014, 0x04EA, 0x068000), (0x1AF4, 0x1041, 0x020000), (0x15B3, 0x101E, 0x020000) })
        {
            var world = await VfioPciWorld.NewAsync();
            var device = await world.PlugAsync(new HeadlessFunction(null, true, vendor, id, classCode));
            using var user = VfioPciWorld.Open(device);
            var config = user.ConfigSpace();
            Assert.Equal((vendor, id), (user.Config16(0), user.Config16(2)));
            config.AsSpan(0, 4).Clear();
            config.AsSpan(9, 3).Clear();
            config.AsSpan(0x2C, 4).Clear();
            var seen = new System.Text.StringBuilder().Append(user.Handle.Info).Append(Convert.ToHexString(config));
            for (var i = 0u; i < user.Handle.Info.Regions; i++)
                seen.Append(user.Handle.TryGetRegionInfo(i, out var region, out _) ? $"{region!.Flags} {region.Size} {region.Areas.Count}" : "none");
            for (var i = 0u; i < (uint)VfioPciIrq.VFIO_PCI_NUM_IRQS; i++)
                seen.Append(user.Handle.TryGetIrqInfo(i, out var irq, out _) ? irq.ToString() : "none");
            Assert.Equal(first ??= seen.ToString(), seen.ToString());
        }
    }

    [Theory]
    [MemberData(nameof(Ops))]
    public async Task Answer_is_the_drivers_where_it_answers_and_the_libraries_where_it_does_not(string op)
    {
        foreach (var way in Enum.GetValues<Way>())
        {
            var world = await VfioPciWorld.NewAsync(w => new MixedDriver(w.Bus, op, way));
            var function = new ScratchFunction();
            var device = await world.PlugAsync(function, "mixed");
            var vfio = VfioPciWorld.DeviceOf(device);
            Assert.True(vfio.TryOpen("web1", out var handle, out var fault), fault.Message);
            Assert.Equal((op, way, way != Way.Own), (op, way, await IsLibrarysAsync(world, device, handle!, function, op)));
            handle!.Dispose();
        }
    }

    public static TheoryData<string> Ops => new("open", "close", "info", "region", "irq", "read", "write", "set", "reset", "request", "attach", "doorbells", "doorbell");

    // Whether what the library does for one callback came of it.
    private static async Task<bool> IsLibrarysAsync(VfioPciWorld world, PciDevice device, VfioHandle handle, ScratchFunction function, string op)
    {
        using var signal = new EventFd();
        using var space = new IoAddressSpace();
        var user = new PciUser(handle);
        switch (op)
        {
            case "open":
                return device.IsEnabled;
            case "close":
                handle.Dispose();
                return !device.IsEnabled;
            case "info":
                return handle.Info.Regions == 9;
            case "region":
                return handle.TryGetRegionInfo(0, out var region, out _) && region!.Size == 0x4000;
            case "irq":
                return handle.TryGetIrqInfo(MsiX, out var irq, out _) && irq.Count == 8;
            case "read":
                var id = new byte[4];
                return handle.TryRead(0, ScratchRegister.Id, id, out _) && BinaryPrimitives.ReadUInt32LittleEndian(id) == 0x00ED5642;
            case "write":
                user.Write32(0, ScratchRegister.Memory, 0x5EC2E7);
                return Register(function, ScratchRegister.Memory) == 0x5EC2E7;
            case "reset":
                user.Write32(0, ScratchRegister.Memory, 0x5EC2E7);
                Assert.True(handle.TryReset(out _));
                return Register(function, ScratchRegister.Memory) == 0;
            case "attach":
                Assert.True(handle.TryAttach(space, null, out _));
                var attached = device.Dma.AddressSpace == space;
                handle.TryAttach(null, null, out _);
                return attached;
            case "doorbells":
                return handle.GetDoorbells(0).Count == 1;
            case "doorbell":
                Assert.True(handle.TryAttachDoorbell(0, Assert.Single(handle.GetDoorbells(0)), signal, out _));
                // The function takes the signal out of the eventfd that stands for its doorbell.
                signal.Signal();
                return SpinWait.SpinUntil(() => Register(function, ScratchRegister.DoorbellCount) != 0, ((MixedOps)device.GetDriverData<VfioPciFunction>()!).Answers ? 50 : 20_000);
            case "set":
                user.SetTrigger(MsiX, 0, signal);
                user.Config16(4, 6);
                user.Write32(0, ScratchRegister.Raise, 0);
                return PciUser.Count(signal) == 1;
            default:
                user.SetTrigger(Req, 0, signal);
                handle.SetRequestCallback(_ => handle.Dispose());
                await world.UnbindAsync(device).In();
                return PciUser.Count(signal) == 1;
        }
    }

    /// <summary>VP-02: whichever callback of VFIO it is, a driver can take, wrap or replace the tool box's.</summary>
    [Fact]
    public void Every_callback_of_VFIO_can_be_wrapped_or_replaced()
    {
        var map = typeof(VfioPciFunction).GetInterfaceMap(typeof(IVfioDeviceOps));
        Assert.All(map.TargetMethods, m => Assert.True(m is { IsVirtual: true, IsFinal: false }, m.Name));
        Assert.Equal(typeof(IVfioDeviceOps).GetMethods().Length, map.TargetMethods.Length);
    }

    [Theory]
    [InlineData("open")]
    [InlineData("close")]
    [InlineData("info")]
    [InlineData("region")]
    [InlineData("irq")]
    [InlineData("read")]
    [InlineData("write")]
    [InlineData("set")]
    [InlineData("reset")]
    [InlineData("request")]
    [InlineData("attach")]
    [InlineData("doorbells")]
    [InlineData("doorbell")]
    public async Task Each_callback_is_the_libraries_wrapped_or_the_drivers_own(string op)
    {
        foreach (var way in Enum.GetValues<Way>())
        {
            var world = await VfioPciWorld.NewAsync(w => new MixedDriver(w.Bus, op, way));
            var device = await world.PlugAsync(new ScratchFunction(), "mixed");
            var ops = (MixedOps)device.GetDriverData<VfioPciFunction>()!;
            var vfio = VfioPciWorld.DeviceOf(device);
            Assert.True(vfio.TryOpen("web1", out var handle, out var fault), fault.Message);
            var bytes = new byte[4];
            using var signal = new EventFd();
            // Its own open or read leaves the tool box without what it needs, so only what the driver answers itself is looked at then.
            _ = handle!.TryGetRegionInfo(0, out _, out _) && handle.TryRead(0, 0, bytes, out _) && handle.TryWrite(0, ScratchRegister.Memory, bytes, out _);
            handle.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger, Index = Req, Start = 0, Count = 1, EventFds = new EventFd?[] { signal } }, out _);
            handle.TryReset(out _);
            handle.TryAttach(null, null, out _);
            if (handle.GetDoorbells(0) is [var doorbell, ..])
                handle.TryAttachDoorbell(0, doorbell, signal, out _);
            handle.SetRequestCallback(_ => handle.Dispose());
            await world.UnbindAsync(device).In();
            Assert.Equal(way == Way.Library ? 0 : 1, Math.Min(ops.Own, 1));
        }
    }

    private static string RepositoryRoot
    {
        get
        {
            var folder = AppContext.BaseDirectory;
            while (!File.Exists(Path.Combine(folder, "Virtbus.slnx")))
                folder = Path.GetDirectoryName(folder)!;
            return folder;
        }
    }

    private static uint Register(ScratchFunction function, int offset)
    {
        Span<byte> word = stackalloc byte[4];
        function.ReadBar(0, (ulong)offset, word);
        return BinaryPrimitives.ReadUInt32LittleEndian(word);
    }

    private static byte[] ConfigOf(PciDevice device)
    {
        var bytes = new byte[device.ConfigSize];
        device.ReadConfig(0, bytes);
        return bytes;
    }

    // Memory of BAR 2 out to memory; the status that it ends with.
    private static uint Transfer(PciUser user, EventFd done, ulong address, uint? pasid)
    {
        user.Write32(0, ScratchRegister.DmaAddressLow, (uint)address);
        user.Write32(0, ScratchRegister.DmaLength, 4);
        user.Write32(0, ScratchRegister.DmaPasid, pasid is { } p ? p | 0x80000000 : 0);
        user.Write32(0, ScratchRegister.DmaCommand, 2);
        Assert.True(PciUser.Arrives(done));
        return user.Read32(0, ScratchRegister.DmaStatus);
    }

    public enum Way
    {
        Library,
        Wrapped,
        Own,
    }

    private sealed class HostDriver(PciBus bus) : PciDriver(bus, "host", new PciDeviceId(0x5642, 0x00ED));

    private sealed class MixedDriver(PciBus bus, string op, Way way) : PciDriver(bus, "mixed")
    {
        public override bool IsDmaManagedByUser => true;

        protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
        {
            VfioPciFunction function = new MixedOps(device, op, way);
            await function.RegisterAsync();
            device.SetDriverData(function);
        }

        protected override ValueTask RemoveAsync(PciDevice device) => device.GetDriverData<VfioPciFunction>()!.UnregisterAsync();
    }

    private sealed class MixedOps(PciDevice device, string op, Way way) : VfioPciFunction(device)
    {
        public int Own { get; private set; }

        public bool Answers => way == Way.Own;

        // True when the driver answers by itself.
        private bool Mine(string name)
        {
            if (name != op || way == Way.Library)
                return false;
            Own++;
            return way == Way.Own;
        }

        public override VfioDeviceInfo Info => Mine("info") ? new(false, true, 1, 1) : base.Info;

        public override bool TryOpen(VfioOwner user, out Fault fault) => Mine("open") ? Nothing(out fault) : base.TryOpen(user, out fault);

        public override void Close()
        {
            if (!Mine("close"))
                base.Close();
        }

        public override VfioRegionInfo GetRegionInfo(uint index) => Mine("region") ? new(VfioRegionFlags.None, 0) : base.GetRegionInfo(index);

        public override VfioIrqInfo GetIrqInfo(uint index) => Mine("irq") ? default : base.GetIrqInfo(index);

        public override bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault) =>
            Mine("read") ? Nothing(out fault) : base.TryRead(region, offset, destination, out fault);

        public override bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault) =>
            Mine("write") ? Nothing(out fault) : base.TryWrite(region, offset, source, out fault);

        public override bool TrySetIrqs(in VfioIrqSet set, out Fault fault) => Mine("set") ? Nothing(out fault) : base.TrySetIrqs(set, out fault);

        public override bool TryReset(out Fault fault) => Mine("reset") ? Nothing(out fault) : base.TryReset(out fault);

        public override void Request(int count)
        {
            if (!Mine("request"))
                base.Request(count);
        }

        public override bool TryAttach(IoAddressSpace? space, uint? pasid, out Fault fault) =>
            Mine("attach") ? Nothing(out fault) : base.TryAttach(space, pasid, out fault);

        public override IReadOnlyList<VfioDoorbell> GetDoorbells(uint region) => Mine("doorbells") ? [] : base.GetDoorbells(region);

        public override bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault) =>
            Mine("doorbell") ? Nothing(out fault) : base.TryAttachDoorbell(region, doorbell, signal, out fault);

        private static bool Nothing(out Fault fault)
        {
            fault = Fault.None;
            return true;
        }
    }
}
