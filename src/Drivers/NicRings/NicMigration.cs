using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Platform;

namespace Virtbus.Drivers.NicRings;

/// <summary>Migration of an adapter's functions by commands of the physical one.</summary>
internal sealed class NicMigration(PciDevice physical, NicChannel channel) : INicMigration
{
    // By docs/adapter-registers.md: 0 is the physical function itself.
    internal static uint FunctionIdOf(int vf) => (uint)vf + 1;

    public bool TryGetFunctionId(Device function, out uint id)
    {
        var isVirtual = function is PciDevice { PhysicalFunction: { } above } && above == physical;
        id = isVirtual ? FunctionIdOf(((PciDevice)function).VirtualFunctionIndex) : 0;
        return isVirtual;
    }

    public bool TrySuspend(uint function, bool p2pOnly, out Fault fault) =>
        channel.TryExecuteAside(NicOpcode.SuspendFunction, function, [p2pOnly ? 1u : 0], out _, out fault);

    public bool TryResume(uint function, out Fault fault) => channel.TryExecuteAside(NicOpcode.ResumeFunction, function, [], out _, out fault);

    public bool TrySaveState(uint function, out byte[] state, out Fault fault)
    {
        state = [];
        if (!channel.TryAllocate(out var memory, out fault))
            return false;
        // An adapter that takes longer than is waited for finds the memory gone.
        using (memory)
        {
            if (!channel.TryExecuteAside(NicOpcode.SaveFunction, function, [memory!.Address.Value, NicChannel.ScratchSize], out var answer, out fault))
                return false;
            if (answer.First > NicChannel.ScratchSize)
            {
                fault = new Fault(Errno.EIO, "the adapter says that it wrote more than it was given room for");
                return false;
            }
            state = memory.Span[..(int)answer.First].ToArray();
            return true;
        }
    }

    public bool TryLoadState(uint function, ReadOnlySpan<byte> state, out Fault fault)
    {
        if (state.Length > NicChannel.ScratchSize)
        {
            fault = new Fault(Errno.EINVAL, "a state of that size is none of this make");
            return false;
        }
        if (!channel.TryAllocate(out var memory, out fault))
            return false;
        using (memory)
        {
            state.CopyTo(memory!.Span);
            return channel.TryExecuteAside(NicOpcode.LoadFunction, function, [memory.Address.Value, (ulong)state.Length], out _, out fault);
        }
    }

    public ulong StateGeneration(uint function) =>
        channel.TryExecute(NicOpcode.QueryGeneration, function, [], out var answer, out _) ? answer.First : 0;
}
