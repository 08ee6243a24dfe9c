using System.Buffers.Binary;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.VfioPci;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests;

/// <summary>A fabric with a PCI bus and the generic driver, into which tests plug functions.</summary>
internal sealed class VfioPciWorld
{
    private VfioPciWorld()
    {
        Fabric = new Fabric(new FabricOptions { LoggerFactory = Lines, Time = Time });
        Auxiliary = Fabric.RegisterBus(new AuxiliaryBus());
        Bus = Fabric.RegisterBus(new PciBus());
        Generic = new VfioPciDriver(Bus);
    }

    public RecordedLog Lines { get; } = new();

    public ManualTime Time { get; } = new();

    public Fabric Fabric { get; }

    public AuxiliaryBus Auxiliary { get; }

    public PciBus Bus { get; }

    public PciDriver Generic { get; }

    public static async Task<VfioPciWorld> NewAsync(Func<VfioPciWorld, PciDriver>? driver = null)
    {
        var world = new VfioPciWorld();
        await world.Bus.AddHostBridgeAsync();
        await world.Fabric.RegisterDriverAsync(world.Generic);
        if (driver is not null)
            await world.Fabric.RegisterDriverAsync(driver(world));
        return world;
    }

    /// <summary>Plugs a function and binds it to a driver as a tool does it.</summary>
    public async Task<PciDevice> PlugAsync(IPciFunction function, string driver = "vfio-pci")
    {
        var device = await Bus.PlugAsync(function);
        await BindAsync(device, driver);
        return device;
    }

    public async Task BindAsync(PciDevice device, string driver)
    {
        Fabric.SetDriverOverride(device, driver);
        Assert.True(Bus.TryGetDriver(driver, out var wanted));
        if (device.Driver is { } bound)
            await Fabric.UnbindAsync(bound, device.Name).In();
        await Fabric.BindAsync(wanted, device.Name).In();
    }

    public Task UnbindAsync(PciDevice device) => Fabric.UnbindAsync(device.Driver!, device.Name).AsTask();

    public static VfioDevice DeviceOf(PciDevice device) => Assert.Single(device.Children.OfType<VfioDevice>());

    public static PciUser Open(PciDevice device)
    {
        Assert.True(DeviceOf(device).TryOpen("web1", out var handle, out var fault), fault.Message);
        return new PciUser(handle!);
    }
}

/// <summary>A user of an open PCI function.</summary>
internal sealed class PciUser(VfioHandle handle) : IDisposable
{
    public const uint Config = 7;

    private static readonly EventFd Never = new();

    public VfioHandle Handle => handle;

    public void Dispose() => handle.Dispose();

    public ulong Read(uint region, ulong offset, int size)
    {
        Span<byte> bytes = stackalloc byte[8];
        bytes.Clear();
        Assert.True(handle.TryRead(region, offset, bytes[..size], out var fault), fault.Message);
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    public void Write(uint region, ulong offset, int size, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        Assert.True(handle.TryWrite(region, offset, bytes[..size], out var fault), fault.Message);
    }

    public uint Read32(uint region, ulong offset) => (uint)Read(region, offset, 4);

    public void Write32(uint region, ulong offset, uint value) => Write(region, offset, 4, value);

    public ushort Config16(int offset) => (ushort)Read(Config, (ulong)offset, 2);

    public uint Config32(int offset) => Read32(Config, (ulong)offset);

    public void Config16(int offset, int value) => Write(Config, (ulong)offset, 2, (ulong)value);

    public void Config32(int offset, uint value) => Write32(Config, (ulong)offset, value);

    public byte[] ConfigSpace()
    {
        Assert.True(handle.TryGetRegionInfo(Config, out var info, out _));
        var bytes = new byte[info!.Size];
        Assert.True(handle.TryRead(Config, 0, bytes, out _));
        return bytes;
    }

    /// <summary>Offset of a capability as the user finds it; 0 for none.</summary>
    public int Capability(byte id)
    {
        for (var at = (int)Read(Config, 0x34, 1); at != 0; at = (int)Read(Config, (ulong)at + 1, 1))
        {
            if (Read(Config, (ulong)at, 1) == id)
                return at;
        }
        return 0;
    }

    public Errno ErrorOfRead(uint region, ulong offset, int size)
    {
        Assert.False(handle.TryRead(region, offset, new byte[size], out var fault));
        return fault.Errno;
    }

    public Errno ErrorOfWrite(uint region, ulong offset, int size)
    {
        Assert.False(handle.TryWrite(region, offset, new byte[size], out var fault));
        return fault.Errno;
    }

    public bool TrySet(VfioIrqSetFlags flags, uint index, uint start, uint count, EventFd?[]? eventFds, out Fault fault, byte[]? bools = null) =>
        handle.TrySetIrqs(new VfioIrqSet { Flags = flags, Index = index, Start = start, Count = count, EventFds = eventFds, Bools = bools }, out fault);

    public void Set(VfioIrqSetFlags flags, uint index, uint start, uint count, params EventFd?[] eventFds) =>
        Assert.True(TrySet(flags, index, start, count, eventFds, out var fault), fault.Message);

    public void SetTrigger(uint index, uint start, params EventFd?[] eventFds) =>
        Set(VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger, index, start, (uint)eventFds.Length, eventFds);

    public void DisableIrqs(uint index) => Set(VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, index, 0, 0);

    public static bool Arrives(EventFd eventFd) => Polling.Wait(eventFd.Descriptor, forWriting: false, Never, 20_000) && eventFd.TryRead(out _);

    public static ulong Count(EventFd eventFd) => eventFd.TryRead(out var count) ? count : 0;
}
