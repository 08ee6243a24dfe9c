using Virtbus.Buses.Pci;
using Virtbus.Drivers.VirtioVfioPci;
using Virtbus.Pci;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>A physical function with two virtual ones, and a fake of what its driver is for others.</summary>
internal sealed class VirtioVfioWorld
{
    internal const string Variant = "virtio-vfio-pci";

    private VirtioVfioWorld(VfioPciWorld world, FakeVirtioFunction hardware, PciDevice physical)
    {
        Base = world;
        Hardware = hardware;
        Physical = physical;
    }

    internal VfioPciWorld Base { get; }

    internal FakeVirtioFunction Hardware { get; }

    internal PciDevice Physical { get; }

    internal FakeAdminOwner Owner { get; } = new();

    internal IReadOnlyList<PciDevice> Functions => Physical.VirtualFunctions;

    internal static async Task<VirtioVfioWorld> NewAsync(ushort device = 0x1041, bool hasBar0 = false, IReadOnlyList<PciDoorbell>? doorbells = null)
    {
        var world = await VfioPciWorld.NewAsync();
        await world.Fabric.RegisterDriverAsync(new VirtioVfioPciDriver(world.Bus, world.Lines));
        var hardware = new FakeVirtioFunction(device, hasBar0) { VirtualDoorbells = doorbells ?? [] };
        var physical = await world.Bus.PlugAsync(hardware);
        physical.Enable();
        await physical.SetVirtualFunctionsAsync(2).In();
        var virtio = new VirtioVfioWorld(world, hardware, physical);
        physical.SetDriverData(virtio.Owner);
        return virtio;
    }

    /// <summary>With the first virtual function handed out, and open; ports are off yet.</summary>
    internal static async Task<(VirtioVfioWorld World, PciUser User)> OpenAsync(IReadOnlyList<PciDoorbell>? doorbells = null)
    {
        var world = await NewAsync(doorbells: doorbells);
        await world.BindAsync(0);
        var user = VfioPciWorld.Open(world.Functions[0]);
        world.Owner.Calls.Clear();
        return (world, user);
    }

    internal Task BindAsync(int function, string driver = Variant) => Base.BindAsync(Functions[function], driver);

    /// <summary>Resets the first virtual function.</summary>
    /// <param name="user">Who has it open.</param>
    /// <param name="way">By the user's call, by the user's config space, by the host's tree, or with its physical function: user, config, system, physical.</param>
    internal async Task ResetAsync(PciUser user, string way)
    {
        switch (way)
        {
            case "user":
                Assert.True(user.Handle.TryReset(out var fault), fault.Message);
                break;
            case "config":
                var control = user.Capability(PciCapabilityId.PCI_CAP_ID_EXP) + PciExpress.PCI_EXP_DEVCTL;
                user.Config16(control, user.Config16(control) | PciExpress.PCI_EXP_DEVCTL_BCR_FLR);
                break;
            default:
                await PciReset.ResetAsync(way == "system" ? Functions[0] : Physical).In();
                break;
        }
    }

    internal string Ops(int function) => Base.Fabric.Tree.Read($"{Functions[function].DevPath}/virtio_vfio_ops").TrimEnd();
}
