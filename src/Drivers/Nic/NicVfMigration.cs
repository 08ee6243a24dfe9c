using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>Migration of virtual functions by commands of the physical one.</summary>
internal sealed class NicVfMigration(NicChannel channel) : INicVfMigration
{
    public bool TrySuspend(int vf, bool p2pOnly, out Fault fault) =>
        channel.TryExecute(NicOpcode.SuspendVirtualFunction, (uint)vf, [p2pOnly ? 1u : 0], out _, out fault);

    public bool TryResume(int vf, out Fault fault) => channel.TryExecute(NicOpcode.ResumeVirtualFunction, (uint)vf, [], out _, out fault);

    public bool TrySaveState(int vf, out byte[] state, out Fault fault)
    {
        lock (channel.Turn)
        {
            state = [];
            if (!channel.TryExecute(NicOpcode.SaveVirtualFunction, (uint)vf, [channel.ScratchAddress, NicChannel.ScratchSize], out var answer, out fault))
                return false;
            if (answer.First > NicChannel.ScratchSize)
            {
                fault = new Fault(Errno.EIO, "the adapter says that it wrote more than it was given room for");
                return false;
            }
            state = channel.Scratch[..(int)answer.First].ToArray();
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
        lock (channel.Turn)
        {
            state.CopyTo(channel.Scratch);
            return channel.TryExecute(NicOpcode.LoadVirtualFunction, (uint)vf, [channel.ScratchAddress, (ulong)state.Length], out _, out fault);
        }
    }

    public ulong StateGeneration(int vf) =>
        channel.TryExecute(NicOpcode.QueryGeneration, (uint)vf, [], out var answer, out _) ? answer.First : 0;
}
