using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A fabric with a function that has an administration queue, bound to virtio_pci and virtio_rng.</summary>
internal sealed class AdminRig : IAsyncDisposable
{
    private AdminRig(VirtioRig rig) => Base = rig;

    internal VirtioRig Base { get; }

    internal AdminScript Script { get; } = new();

    /// <summary>Changes what registers say: offset, bytes.</summary>
    internal SpoiledFunction Function { get; private set; } = null!;

    internal PciDevice Owner { get; private set; } = null!;

    /// <summary>First number, and how many.</summary>
    internal (ushort First, ushort Count) Queues { get; set; } = (1, 1);

    internal static async Task<AdminRig> StartAsync(int? vectors = null, Action<AdminRig>? configure = null)
    {
        var rig = new AdminRig(await VirtioRig.StartAsync());
        configure?.Invoke(rig);
        var inner = new VirtioFunction(
            new AdministeredDevice("dice", rig.Script), new VirtioFunctionOptions { VirtualFunctions = 4, HasAdminQueue = false, Vectors = vectors }, static i => new AdministeredDevice($"dice{i}", null));
        rig.Function = new SpoiledFunction(inner)
        {
            Bar = (_, offset, bytes) =>
            {
                if (bytes.Length == 2 && rig.Say(offset) is { } value)
                    BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
            },
        };
        rig.Owner = await rig.Base.PlugAsync(rig.Function);
        return rig;
    }

    /// <summary>Enables virtual functions, which no driver takes.</summary>
    internal async Task<PciDevice> EnableAsync(int count = 2)
    {
        await Base.Fabric.Tree.WriteAsync(Owner.DevPath + "/sriov_drivers_autoprobe", "0").In();
        Script.HasMembers = true;
        await Base.Fabric.Tree.WriteAsync(Owner.DevPath + "/sriov_numvfs", $"{count}").In();
        return Owner.VirtualFunctions[^1];
    }

    internal async Task DisableAsync()
    {
        await Base.Fabric.Tree.WriteAsync(Owner.DevPath + "/sriov_numvfs", "0").In();
        Script.HasMembers = false;
    }

    public ValueTask DisposeAsync() => Base.DisposeAsync();

    // The queue that is one more is none of the driver's.
    private ushort? Say(ulong offset) => (int)offset switch
    {
        VirtioCommonConfig.num_queues => 1,
        VirtioCommonConfig.admin_queue_index => Queues.First,
        VirtioCommonConfig.admin_queue_num => Queues.Count,
        _ => null,
    };
}
