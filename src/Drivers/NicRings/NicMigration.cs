using System.Text;
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

    // What a state may have (docs/adapter-registers.md), and behind it the room in which the adapter says why it takes none.
    private const int StateRoom = 2048;
    private const int ReasonRoom = 512;

    public bool TrySaveState(uint function, out byte[] state, out Fault fault)
    {
        state = [];
        if (!channel.TryAllocate(out var memory, out fault))
            return false;
        // An adapter that takes longer than is waited for finds the memory gone.
        using (memory)
        {
            if (!channel.TryExecuteAside(NicOpcode.SaveFunction, function, [memory!.Address.Value, StateRoom], out var answer, out fault))
                return false;
            if (answer.First > StateRoom)
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
        if (state.Length > StateRoom)
        {
            fault = new Fault(Errno.EINVAL, $"a state of {state.Length} bytes is none of this make, whose states have at most {StateRoom}");
            return false;
        }
        if (!channel.TryAllocate(out var memory, out fault))
            return false;
        using (memory)
        {
            state.CopyTo(memory!.Span);
            ulong[] arguments = [memory.Address.Value, (ulong)state.Length, memory.Address.Value + StateRoom, ReasonRoom];
            if (channel.TryExecuteAside(NicOpcode.LoadFunction, function, arguments, out var answer, out fault))
                return true;
            if (answer.First is > 0 and <= ReasonRoom)
                fault = new Fault(fault.Errno, PrintableText.Escape(Encoding.ASCII.GetString(memory.Span.Slice(StateRoom, (int)answer.First))));
            return false;
        }
    }

    public ulong StateGeneration(uint function) =>
        channel.TryExecute(NicOpcode.QueryGeneration, function, [], out var answer, out _) ? answer.First : 0;
}
