using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Hardware.Probe;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Remote.Pci;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.VfioUser;

namespace Virtbus.Tests.Remote.VfioUser;

/// <summary>
/// A simulated function of one fabric, handed out by its vfio-pci driver over vfio-user, plugged into the PCI bus of another fabric and driven
/// there by a driver that cannot tell.
/// </summary>
[Collection(WireCollection.Name)]
public sealed class VfioUserFunctionTests : IAsyncLifetime
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private readonly RecordedLog _log = new(Microsoft.Extensions.Logging.LogLevel.Information);
    private readonly ScratchFunction _hardware = new(name: "virtbus-scratch");
    private readonly Fabric _fabric;
    private readonly PciBus _bus;
    private readonly HostDriver _driver;
    private VfioDevice _served = null!;
    private VfioUserServer _server = null!;
    private RemoteFunction _function = null!;
    private PciDevice _device = null!;

    public VfioUserFunctionTests()
    {
        _fabric = new Fabric(new FabricOptions { LoggerFactory = _log });
        _bus = _fabric.RegisterBus(new PciBus());
        _driver = new HostDriver(_bus);
    }

    public async ValueTask InitializeAsync()
    {
        var world = await VfioPciWorld.NewAsync();
        _served = VfioPciWorld.DeviceOf(await world.PlugAsync(_hardware));
        _server = new VfioUserServer(Path.Combine(_folder.FullName, "socket"), _served, _log);
        _server.Start();
        await _bus.AddHostBridgeAsync();
        await _fabric.RegisterDriverAsync(_driver);
        _function = VfioUserFunctionProvider.Connect(_server.Path);
        _device = await _bus.PlugAsync(_function);
    }

    public async ValueTask DisposeAsync()
    {
        _function.Dispose();
        await _server.StopAsync().EndsAsync("the server's stop", () => _log.Text);
        _hardware.Dispose();
        _folder.Delete(recursive: true);
    }

    private PciRegion Registers => _device.GetRegion(0);

    private static void Until(Func<bool> condition, string what) => WireFixture.Until(condition, what);

    private DmaBuffer Allocate(ulong size)
    {
        Assert.True(_device.IommuGroup.TryAllocate(size, out var buffer, out var fault), fault.Message);
        return buffer!;
    }

    private uint Transfer(ulong address, uint length, uint command)
    {
        Registers.Write32(ScratchRegister.DmaAddressLow, (uint)address);
        Registers.Write32(ScratchRegister.DmaAddressHigh, (uint)(address >> 32));
        Registers.Write32(ScratchRegister.DmaLength, length);
        Registers.Write32(ScratchRegister.DmaOffset, 0);
        Registers.Write32(ScratchRegister.DmaCommand, command);
        uint status;
        while ((status = Registers.Read32(ScratchRegister.DmaStatus)) == 1)
        {
        }

        return status;
    }

    [Fact]
    public void Bus_sees_what_the_server_has()
    {
        Assert.Equal((ScratchFunction.VendorId, ScratchFunction.DeviceId), (_device.VendorId, _device.DeviceId));
        Assert.Equal(_hardware.ConfigSize, _device.ConfigSize);
        for (var bar = 0; bar < PciBar.Count; bar++)
            Assert.Equal(_hardware.GetBar(bar), _function.GetBar(bar));
        Assert.Equal(0x00ED5642u, Registers.Read32(ScratchRegister.Id));
        Assert.Same(_driver, _device.Driver);
        Assert.Single(_function.Doorbells);
        Assert.Single(_function.GetBarAreas(2));
    }

    [Fact]
    public void Registers_of_any_size_and_mapped_memory_are_reached()
    {
        Registers.Write64(ScratchRegister.Memory, 0x1122334455667788);
        Assert.Equal(0x55667788u, Registers.Read32(ScratchRegister.Memory));
        var memory = _device.GetRegion(2);
        memory.Write32(0x100, 0xcafe);
        var seen = new byte[4];
        _hardware.ReadBar(2, 0x100, seen);
        Assert.Equal(0xcafe, BitConverter.ToInt32(seen));
        Assert.Equal(0xcafeu, memory.Read32(0x100));
    }

    [Fact]
    public void Base_addresses_are_sized_and_kept()
    {
        var before = _device.ReadConfig32(0x10);
        Assert.Equal((uint)Registers.Start, before & ~0xfu);
        _function.WriteConfig(0x10, [0xff, 0xff, 0xff, 0xff]);
        var sized = new byte[4];
        _function.ReadConfig(0x10, sized);
        Assert.Equal(~(0x4000u - 1), BitConverter.ToUInt32(sized) & ~0xfu);
        _function.WriteConfig(0x10, BitConverter.GetBytes(before));
        Assert.Equal(before, _device.ReadConfig32(0x10));
    }

    [Fact]
    public void Device_reads_and_writes_the_drivers_memory()
    {
        using var buffer = Allocate(0x10000);
        "hello"u8.CopyTo(buffer.Span);
        Assert.Equal(2u, Transfer(buffer.Address.Value, 5, 1));
        Assert.Equal(2u, Transfer(buffer.Address.Value + 0x8000, 5, 2));
        Assert.Equal("hello"u8, buffer.Span.Slice(0x8000, 5));
    }

    [Fact]
    public void Memory_that_was_freed_is_out_of_the_servers_reach()
    {
        ulong address;
        using (var buffer = Allocate(0x1000))
        {
            address = buffer.Address.Value;
            Assert.Equal(2u, Transfer(address, 5, 1));
        }

        Assert.Equal(3u, Transfer(address, 5, 1));
    }

    [Theory]
    [InlineData(PciInterruptKinds.MsiX, 8)]
    [InlineData(PciInterruptKinds.Msi, 1)]
    public void Messages_reach_their_handlers_and_wait_while_masked(PciInterruptKinds kind, int least)
    {
        var vectors = _device.AllocateVectors(1, 8, kind);
        Assert.InRange(vectors.Count, least, 8);
        var last = vectors.Count - 1;
        var count = 0;
        vectors[last].SetHandler(() => Interlocked.Increment(ref count));
        Registers.Write32(ScratchRegister.Raise, (uint)last);
        Until(() => Volatile.Read(ref count) == 1, "the first interrupt");
        vectors[last].Mask();
        Registers.Write32(ScratchRegister.Raise, (uint)last);
        vectors[last].Unmask();
        Until(() => Volatile.Read(ref count) == 2, "the one that came while masked");
        _device.FreeVectors();
        Registers.Write32(ScratchRegister.Raise, (uint)last);
        Assert.Equal(2, Volatile.Read(ref count));
    }

    [Fact]
    public void Line_comes_again_until_the_cause_is_gone()
    {
        var vector = Assert.Single(_device.AllocateVectors(1, 1, PciInterruptKinds.INTx));
        var calls = 0;
        var causes = new System.Collections.Concurrent.ConcurrentQueue<uint>();
        vector.SetHandler(() =>
        {
            // The first time it is only looked at, so the line has to come again. A call that finds no cause is no interrupt of the round, and what it did
            // not find it does not clear: the next round's may come at that moment.
            var cause = Registers.Read32(ScratchRegister.InterruptCause);
            causes.Enqueue(cause);
            if (cause != 0 && Interlocked.Increment(ref calls) > 1)
                Registers.Write32(ScratchRegister.InterruptCause, cause);
        });
        Registers.Write32(ScratchRegister.InterruptEnable, 7);
        // Each is read by this thread while another one raises the line: often enough that the two meet.
        for (var round = 1; round <= 150; round++)
        {
            Volatile.Write(ref calls, 0);
            Registers.Write32(ScratchRegister.Raise, 0);
            Until(() => Volatile.Read(ref calls) >= 2 && Registers.Read32(ScratchRegister.InterruptCause) == 0, $"the interrupts of round {round}");
        }

        Assert.Contains(4u, causes);
        Assert.Equal(0, _device.ReadConfig16(6) & 8);
    }

    [Fact]
    public void Doorbell_is_rung_by_a_signal_of_this_process()
    {
        using var signal = new EventFd();
        Assert.True(_function.TryAttachDoorbell(_function.Doorbells[0], signal, out _));
        signal.Signal();
        Until(() => Registers.Read32(ScratchRegister.DoorbellCount) == 1, "the doorbell");
        Assert.True(_function.TryAttachDoorbell(_function.Doorbells[0], null, out _));
        Assert.False(_function.TryAttachDoorbell(new PciDoorbell(3, 0, 4), signal, out var fault));
        Assert.Equal(Errno.ENOENT, fault.Errno);
    }

    [Fact]
    public void Resets_reach_the_device()
    {
        var resets = Registers.Read32(ScratchRegister.ResetCount);
        Registers.Write32(ScratchRegister.Memory, 5);
        Assert.True(_device.TryReset(out var fault), fault.Message);
        Assert.InRange(Registers.Read32(ScratchRegister.ResetCount), resets + 1, resets + 2);
        Assert.Equal(0u, Registers.Read32(ScratchRegister.Memory));
        Assert.Equal(0x00ED5642u, Registers.Read32(ScratchRegister.Id));
    }

    [Fact]
    public async Task Server_that_goes_is_a_function_that_is_pulled_out()
    {
        await _server.StopAsync().EndsAsync("the server's stop", () => _log.Text);
        Until(() => !_function.IsPresent, "the loss");
        Until(() => _bus.Devices.All(device => device != _device), "the removal");
        var bytes = new byte[4];
        _function.ReadConfig(0, bytes);
        Assert.Equal([0xff, 0xff, 0xff, 0xff], bytes);
        _function.ReadBar(0, 0, bytes);
        Assert.Equal([0xff, 0xff, 0xff, 0xff], bytes);
    }

    [Fact]
    public async Task Unplugged_function_leaves_nothing_behind()
    {
        using (var buffer = Allocate(0x1000))
            Assert.Equal(2u, Transfer(buffer.Address.Value, 5, 1));
        _device.AllocateVectors(1, 8, PciInterruptKinds.MsiX)[0].SetHandler(() => { });
        await _bus.UnplugAsync(_device);
        _function.Dispose();
        Until(() => !_server.IsConnected, "the end of the session");
        Until(() => !_served.IsOpen, "the close of the device");
        // And it can be had again.
        using var again = VfioUserFunctionProvider.Connect(_server.Path);
        Assert.Equal(ScratchFunction.DeviceId, (await _bus.PlugAsync(again)).DeviceId);
    }

    [Fact]
    public async Task Function_that_its_server_asks_for_is_given_back()
    {
        Assert.Same(_driver, _device.Driver);
        // It waits until nobody has the device open any more.
        var unbind = _served.Fabric!.UnbindAsync(_served.Parent!.Driver!, _served.Parent.Name).AsTask();
        Until(() => !_function.IsPresent, "the request");
        await _fabric.SettleAsync(TestContext.Current.CancellationToken);
        Assert.Null(_bus.Find(_device.Address));
        _function.Dispose();
        await unbind;
    }

    [Fact]
    public async Task Device_that_is_no_PCI_function_is_refused()
    {
        var world = await VfioWorld.NewAsync();
        await using var server = new VfioUserServer(Path.Combine(_folder.FullName, "other"), world.Device, _log);
        server.Start();
        var error = Assert.Throws<VirtbusException>(() => VfioUserFunctionProvider.Connect(server.Path));
        Assert.Equal(Errno.ENODEV, error.Errno);
        Assert.Contains("no PCI function", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Server_that_shrinks_the_memory_of_a_BAR_is_as_one_that_is_gone()
    {
        Assert.SkipUnless(Mapping.IsGuardSupported, "no guard on this architecture: shrinking ends the process");
        using var fixture = new WireFixture();
        using var function = VfioUserFunctionProvider.Connect(fixture.Socket);
        var seen = new byte[4];
        function.WriteBar(5, 0x100, [1, 2, 3, 4]);
        function.ReadBar(5, 0x100, seen);
        Assert.Equal([1, 2, 3, 4], seen);
        Assert.Equal(0, Libc.ftruncate(fixture.Device.Other, 0));
        function.ReadBar(5, 0x100, seen);
        Assert.Equal(new byte[4], seen);
        Until(() => !function.IsPresent, "the loss");
    }

    [Fact]
    public void Memory_of_a_BAR_on_a_disk_is_reached_by_messages()
    {
        using var fixture = new WireFixture();
        using var file = DiskFile.TryOpen();
        Assert.SkipWhen(file is null, "the folder of the tests is in memory");
        fixture.Device.Backing = file;
        fixture.Device.Pages.Write(0x3000, [1, 2, 3, 4]);
        using var function = VfioUserFunctionProvider.Connect(fixture.Socket);
        Assert.Empty(function.GetBarAreas(2));
        // The bytes of the file are other ones than those that the server answers.
        var seen = new byte[4];
        function.ReadBar(2, 0x3000, seen);
        Assert.Equal([1, 2, 3, 4], seen);
        function.WriteBar(2, 0x3000, [5, 6, 7, 8]);
        fixture.Device.Pages.Read(0x3000, seen);
        Assert.Equal([5, 6, 7, 8], seen);
        Assert.NotEmpty(function.GetBarAreas(5));
    }

    [Fact]
    public async Task Areas_of_a_region_are_offered_on_as_the_server_has_them()
    {
        using var fixture = new WireFixture();
        (ulong, ulong)[] areas = [(0, 0x800), (0x1000, 0x1000), (0x3000, 0x400)];
        fixture.Device.OnRegion = index => index != 2 ? null : new VfioRegionInfo(VfioRegionFlags.Read | VfioRegionFlags.Write | VfioRegionFlags.Mmap, 0x4000)
        {
            Areas = [.. areas.Select(area => new VfioRegionArea(area.Item1, area.Item2, fixture.Device.File, area.Item1))],
        };
        byte[] ids = [0x42, 0x56, 0xed, 0x00];
        ids.CopyTo(fixture.Device.Config, 0);
        using var function = VfioUserFunctionProvider.Connect(fixture.Socket);
        Assert.Equal(areas, function.GetBarAreas(2).Select(area => (area.Offset, area.Size)));

        var world = await VfioPciWorld.NewAsync();
        var device = await world.PlugAsync(function);
        await using var second = new VfioUserServer(Path.Combine(_folder.FullName, "second"), VfioPciWorld.DeviceOf(device), _log);
        second.Start();
        using (var client = VfioUserClient.Connect(second.Path))
        {
            Assert.True(client.TryGetRegionInfo(2, out var info, out var fault), fault.Message);
            Assert.Equal(areas, info!.Areas.Select(area => (area.Offset, area.Size)));
            // By the map of the last one, beyond the server in the middle.
            var last = info.Areas[2];
            Assert.True(HostMemory.TryMap(last.File, last.FileOffset, last.Size, DmaAccess.ReadWrite, out var memory, out fault), fault.Message);
            memory!.Write(0x3fc, "here"u8);
            memory.Dispose();
            var seen = new byte[4];
            fixture.Device.Pages.Read(0x33fc, seen);
            Assert.Equal("here"u8, seen);
        }

        await world.Bus.UnplugAsync(device);
    }

    [Fact]
    public void More_messages_than_there_are_cannot_be_given()
    {
        var at = _device.FindCapability(PciCapabilityId.PCI_CAP_ID_MSI) + PciMsi.PCI_MSI_FLAGS;
        var capable = (_device.ReadConfig16(at) & PciMsi.PCI_MSI_FLAGS_QMASK) >> 1;
        _device.WriteConfig16(at, 7 << PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT);
        Assert.Equal(capable, (_device.ReadConfig16(at) & PciMsi.PCI_MSI_FLAGS_QSIZE) >> PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT);
        _device.WriteConfig16(at, 1 << PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT);
        Assert.Equal(1, (_device.ReadConfig16(at) & PciMsi.PCI_MSI_FLAGS_QSIZE) >> PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT);
    }

    /// <summary>Enables the device, as any driver of the host does, and claims its DMA.</summary>
    private sealed class HostDriver(PciBus bus) : PciDriver(bus, "scratch-host", new PciDeviceId(ScratchFunction.VendorId, ScratchFunction.DeviceId))
    {
        protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
        {
            device.Enable();
            device.SetMaster(true);
            return default;
        }

        protected override ValueTask RemoveAsync(PciDevice device)
        {
            device.FreeVectors();
            device.Disable();
            return default;
        }
    }
}
