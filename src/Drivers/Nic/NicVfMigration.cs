using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>Migration of virtual functions by commands of the physical one.</summary>
internal sealed class NicVfMigration(NicChannel channel) : INicVfMigration
{
    // By docs/adapter-registers.md: 0 is the physical function itself.
    internal static uint FunctionIdOf(int vf) => (uint)vf + 1;

    public bool TrySuspend(int vf, bool p2pOnly, out Fault fault) =>
        channel.TryExecuteAside(NicOpcode.SuspendFunction, FunctionIdOf(vf), [p2pOnly ? 1u : 0], out _, out fault);

    public bool TryResume(int vf, out Fault fault) => channel.TryExecuteAside(NicOpcode.ResumeFunction, FunctionIdOf(vf), [], out _, out fault);

    public bool TrySaveState(int vf, out byte[] state, out Fault fault)
    {
        state = [];
        if (!channel.TryAllocate(out var memory, out fault))
            return false;
        // An adapter that takes longer than is waited for finds the memory gone.
        using (memory)
        {
            if (!channel.TryExecuteAside(NicOpcode.SaveFunction, FunctionIdOf(vf), [memory!.Address.Value, NicChannel.ScratchSize], out var answer, out fault))
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

    public bool TryLoadState(int vf, ReadOnlySpan<byte> state, out Fault fault)
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
            return channel.TryExecuteAside(NicOpcode.LoadFunction, FunctionIdOf(vf), [memory.Address.Value, (ulong)state.Length], out _, out fault);
        }
    }

    public ulong StateGeneration(int vf) =>
        channel.TryExecute(NicOpcode.QueryGeneration, FunctionIdOf(vf), [], out var answer, out _) ? answer.First : 0;
}
