using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.VfioPci;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>
/// Virtual functions that a driver keeps and hands out by shares, as accelerators do whose functions are mediated: a function is a type and a part of
/// the adapter's memory, told to the hardware before anybody sees it. PV-04.
/// </summary>
public sealed class MediatedFunctionTests
{
    private const string Large = "type=compute memory=48MiB";

    [Fact]
    public async Task User_of_a_mediated_function_sees_what_its_profile_says()
    {
        var (world, physical, hardware, engine) = await NewAsync();
        var observer = new Observer(hardware);
        await world.Fabric.AddClassObserverAsync(VfioSubsystem.Of(world.Fabric).Class, observer);
        var one = engine.Define("one", "mediated", physical.Name, Pairs("type=compute"));
        Assert.Equal(FunctionState.Defined, one.State);
        Assert.Equal(Errno.EINVAL, (await Assert.ThrowsAsync<VirtbusException>(async () => await engine.ActivateAsync(["one"]))).Errno);
        await engine.SetAsync("one", Pairs("memory=48MiB"));
        Assert.Equal(FunctionState.Configured, one.State);
        Assert.Empty(Devices(world));
        Assert.All(hardware.Shares, static s => Assert.Equal(default, s));

        await engine.ActivateAsync(["one"]);
        Assert.Equal(["one compute 48MiB"], observer.Seen);
        Assert.Equal(FunctionState.Active, one.State);
        var device = Assert.IsType<VfioDevice>(one.Device);
        Assert.Equal(("one", physical.VirtualFunctions[0]), (device.Label, device.Parent));
        Assert.True(device.TryOpen("web1", out var handle, out var fault), fault.Message);
        using (var user = new PciUser(handle!))
        {
            Assert.Equal(FunctionState.InUse, one.State);
            Assert.Equal((1ul, 48ul << 20), (user.Read(0, 0, 8), user.Read(0, 8, 8)));
            // What it is stays, whatever its user does.
            Assert.True(handle!.TryReset(out fault), fault.Message);
            Assert.Equal(48ul << 20, user.Read(0, 8, 8));
        }
        Assert.Equal(FunctionState.Active, one.State);
    }

    [Fact]
    public async Task Deactivation_waits_for_the_user_and_frees_the_virtual_function()
    {
        var (world, physical, hardware, engine) = await NewAsync();
        var one = engine.Define("one", "mediated", null, Pairs(Large));
        await engine.ActivateAsync(["one"]);
        Assert.True(((VfioDevice)one.Device!).TryOpen("web1", out var handle, out _));
        var deactivation = engine.DeactivateAsync(["one"]).AsTask();
        Assert.Equal(FunctionState.Draining, one.State);
        Assert.False(deactivation.IsCompleted);
        Assert.Equal(GpuType.Compute, hardware.Shares[0].Type);
        handle!.Dispose();
        await deactivation.In();
        Assert.Equal(FunctionState.Configured, one.State);
        Assert.Equal(default, hardware.Shares[0]);
        Assert.Empty(Devices(world));

        // Another one may have it now, and what the first had.
        var two = engine.Define("two", "mediated", null, Pairs("type=display memory=64MiB"));
        await engine.ActivateAsync(["two"]);
        Assert.Equal(physical.VirtualFunctions[0], two.Device!.Parent);
        Assert.Equal((GpuType.Display, 64L << 20), hardware.Shares[0]);
        await engine.DeactivateAsync(["two"]);
    }

    [Fact]
    public async Task One_that_wants_more_than_is_left_is_refused_whole()
    {
        var (world, _, hardware, engine) = await NewAsync();
        foreach (var name in (ReadOnlySpan<string>)["one", "two", "small"])
            engine.Define(name, "mediated", null, Pairs(name == "small" ? "type=display memory=16MiB" : Large));
        await engine.ActivateAsync(["one"]);
        var error = await Assert.ThrowsAsync<VirtbusException>(async () => await engine.ActivateAsync(["small", "two"]));
        Assert.Equal(Errno.ENOSPC, error.Errno);
        Assert.Contains("0 of the 64 MiB", error.Message, StringComparison.Ordinal);
        Assert.Single(Devices(world));
        Assert.Equal([(GpuType.Compute, 48L << 20), default, default], hardware.Shares);
        Assert.Equal([FunctionState.Active, FunctionState.Configured, FunctionState.Configured], engine.Functions.Select(static f => f.State));
        await engine.ActivateAsync(["small"]);
        Assert.Equal(2, Devices(world).Count);

        // It goes with its driver, and what is defined stays.
        await world.UnbindAsync((PciDevice)hardware.Device!).In();
        Assert.Empty(Devices(world));
        Assert.Equal([FunctionState.Gone, FunctionState.Configured, FunctionState.Gone], engine.Functions.Select(static f => f.State));
    }

    private static IReadOnlyList<Device> Devices(VfioPciWorld world) => VfioSubsystem.Of(world.Fabric).Class.Devices;

    private static IReadOnlyList<KeyValuePair<string, string>> Pairs(string line) => ProfileText.ParsePairs(ProfileText.Split(line));

    private static async Task<(VfioPciWorld World, PciDevice Physical, Gpu Hardware, ProvisioningEngine Engine)> NewAsync()
    {
        var world = await VfioPciWorld.NewAsync(static w => new GpuDriver(w.Bus));
        await world.Fabric.RegisterDriverAsync(new GpuFunctionDriver(world.Bus));
        var hardware = new Gpu();
        var physical = await world.Bus.PlugAsync(hardware);
        hardware.Device = physical;
        Assert.Equal("gpu", physical.Driver?.Name);
        await physical.SetVirtualFunctionsAsync(3).In();
        Assert.All(physical.VirtualFunctions, static f => Assert.Equal("gpu-vf", f.Driver?.Name));
        return (world, physical, hardware, ProvisioningEngine.Of(world.Fabric));
    }

    private enum GpuType
    {
        None,
        Compute,
        Display,
    }

    /// <summary>What sees a device first finds the hardware told.</summary>
    private sealed class Observer(Gpu hardware) : IClassObserver
    {
        public List<string> Seen { get; } = [];

        public ValueTask DeviceAddedAsync(Device device)
        {
            var (type, memory) = hardware.Shares[((PciDevice)device.Parent!).VirtualFunctionIndex];
            Seen.Add($"{((VfioDevice)device).Label} {type.ToString().ToLowerInvariant()} {memory >> 20}MiB");
            return default;
        }

        public ValueTask DeviceRemovedAsync(Device device) => default;
    }

    /// <summary>Makes functions out of what the adapter has: virtual functions, and shares of its memory.</summary>
    private sealed class MediatedProvider(PciDevice device, Gpu hardware) : SingleFunctionProvider
    {
        private static readonly ProfileField<string> Type = ProfileFields.Choice("type", ["compute", "display"], isRequired: true);
        private static readonly ProfileField<long> Memory = ProfileFields.Size("memory", 1 << 20, isRequired: true);
        private static readonly ProfileField[] All = [Type, Memory];
        private readonly Lock _lock = new();

        public override string Kind => "mediated";

        public override IReadOnlyList<string> Parents => [device.Name];

        public override IReadOnlyList<ProfileField> Fields => All;

        public override void Check(FunctionProfile profile)
        {
            if (profile.TryGet(Memory, out var memory) && memory > Gpu.Memory)
                throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': {device.Name} has {Gpu.Memory >> 20} MiB in all. Write less memory.");
        }

        protected override async ValueTask<Device> ActivateAsync(FunctionProfile profile, CancellationToken cancellationToken)
        {
            var function = Take(profile);
            try
            {
                return await VfioSubsystem.Of(device.Fabric!).RegisterAsync(function, profile.Name, function.GetDriverData<VfioPciFunction>()!);
            }
            catch
            {
                Free(function);
                throw;
            }
        }

        protected override async ValueTask DeactivateAsync(FunctionProfile profile, Device made)
        {
            var function = (PciDevice)made.Parent!;
            await VfioSubsystem.Of(device.Fabric!).UnregisterAsync((VfioDevice)made);
            Free(function);
        }

        // All that it takes, or nothing: several are made side by side.
        private PciDevice Take(FunctionProfile profile)
        {
            lock (_lock)
            {
                var left = Gpu.Memory - hardware.Shares.Sum(static s => s.Memory);
                if (profile.Get(Memory) > left)
                {
                    throw new VirtbusException(
                        Errno.ENOSPC, $"Function '{profile.Name}' wants {profile.Get(Memory) >> 20} MiB, and {left >> 20} of the {Gpu.Memory >> 20} MiB of {device.Name} are left. Write less memory.");
                }

                var function = device.VirtualFunctions.FirstOrDefault(f => f.Driver is GpuFunctionDriver && hardware.Shares[f.VirtualFunctionIndex] == default)
                    ?? throw new VirtbusException(Errno.ENOSPC, $"Function '{profile.Name}': all virtual functions of {device.Name} are in use. Deactivate one first.");
                hardware.Shares[function.VirtualFunctionIndex] = (profile.Get(Type) == "compute" ? GpuType.Compute : GpuType.Display, profile.Get(Memory));
                return function;
            }
        }

        private void Free(PciDevice function)
        {
            lock (_lock)
                hardware.Shares[function.VirtualFunctionIndex] = default;
        }
    }

    /// <summary>Drives the physical function, and makes functions while it is bound.</summary>
    [PciDeviceTable(0x5642, 0x6001)]
    private sealed class GpuDriver(PciBus bus) : PciDriver(bus, "gpu")
    {
        protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
        {
            device.Enable();
            var provider = new MediatedProvider(device, (Gpu)device.Function);
            ProvisioningEngine.Of(device.Fabric!).AddProvider(provider);
            device.SetDriverData(provider);
            return default;
        }

        protected override async ValueTask RemoveAsync(PciDevice device)
        {
            ProvisioningEngine.Of(device.Fabric!).RemoveProvider(device.GetDriverData<MediatedProvider>()!);
            await device.SetVirtualFunctionsAsync(0);
            device.Disable();
        }
    }

    /// <summary>Keeps a virtual function until somebody is to have it.</summary>
    [PciDeviceTable(0x5642, 0x6002)]
    private sealed class GpuFunctionDriver(PciBus bus) : PciDriver(bus, "gpu-vf")
    {
        public override bool IsDmaManagedByUser => true;

        protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
        {
            device.SetDriverData(new VfioPciFunction(device));
            return default;
        }

        protected override async ValueTask RemoveAsync(PciDevice device)
        {
            foreach (var handed in device.Children.OfType<VfioDevice>().ToList())
                await VfioSubsystem.Of(device.Fabric!).UnregisterAsync(handed);
        }
    }

    private sealed class Gpu : PciPhysicalFunction
    {
        public const long Memory = 64 << 20;

        private static readonly ConfigLayout Physical = ConfigSpaceBuilder.Function(0x5642, 0x6001)
            .Class(0x030200)
            .MemoryBar64(0, 0x4000)
            .Express(new PciExpressOptions { HasFunctionLevelReset = true })
            .Ari()
            .Sriov(new SriovOptions { TotalVfs = 3, VfDeviceId = 0x6002, VfBars = [new PciBar(PciBarKind.Memory64, 0x4000)] })
            .Build();

        private static readonly ConfigLayout Virtual = ConfigSpaceBuilder.VirtualFunction(Physical).Build();

        public Gpu()
            : base(Physical)
        {
        }

        public Device? Device { get; set; }

        /// <summary>What each virtual function is.</summary>
        public (GpuType Type, long Memory)[] Shares { get; } = new (GpuType, long)[3];

        protected override PciVirtualFunction CreateVirtualFunction(int index) => new GpuFunction(this, index);

        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Clear();

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
        {
        }

        protected override void OnReset(PciResetKind kind)
        {
        }

        private sealed class GpuFunction(Gpu physical, int index) : PciVirtualFunction(physical, index, Virtual)
        {
            private readonly int _index = index;

            protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
            {
                Span<byte> registers = stackalloc byte[32];
                registers.Clear();
                BinaryPrimitives.WriteInt64LittleEndian(registers, (long)physical.Shares[_index].Type);
                BinaryPrimitives.WriteInt64LittleEndian(registers[8..], physical.Shares[_index].Memory);
                destination.Clear();
                if (offset + (ulong)destination.Length <= 16)
                    registers.Slice((int)offset, destination.Length).CopyTo(destination);
            }

            protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
            {
            }

            protected override void OnReset(PciResetKind kind)
            {
            }
        }
    }
}
