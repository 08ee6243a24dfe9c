using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>Executes a function's commands, on its lane's thread under its gate. A command that is wrong gets an error number.</summary>
/// <param name="unit">The function.</param>
/// <param name="commanded">The functions that it commands; null for one that commands none, as all but the physical one.</param>
internal sealed class FunctionCommands(FunctionUnit unit, FunctionTable? commanded)
{
    // A station address: not all zeros, no group.
    private const ulong GroupBit = 1UL << 40;

    /// <summary>Executes a command.</summary>
    /// <returns>False when another function has to do it, as <paramref name="deferred"/>.</returns>
    internal bool TryExecute(
        in AdapterCommand command, DmaPort dma, out Errno status, out ulong first, out ulong second, out DeferredCommand? deferred)
    {
        first = second = 0;
        deferred = null;
        if (!IsDeferred(command, out var function))
        {
            status = Execute(command, dma, out first, out second);
            return true;
        }
        status = DeferredCommand.TryMake(command, dma, unit, function, out deferred);
        return status != Errno.None;
    }

    // Those that need the other function to stand still for a moment, which it does between two pieces of its own work.
    private bool IsDeferred(in AdapterCommand command, out FunctionUnit function)
    {
        function = null!;
        return commanded is not null && !command.HasReservedBits
            && command.Opcode is >= AdapterOpcode.SuspendFunction and <= AdapterOpcode.LoadFunction
            && commanded.TryGet(command.Index, out function);
    }

    private Errno Execute(in AdapterCommand command, DmaPort dma, out ulong first, out ulong second)
    {
        first = second = 0;
        if (command.HasReservedBits)
            return Errno.EINVAL;
        switch (command.Opcode)
        {
            case AdapterOpcode.Nop:
                return Errno.None;
            case AdapterOpcode.QueryCapabilities:
                first = unit.Limits.PartsWord;
                second = unit.Limits.QueuesWord;
                return Errno.None;
            case AdapterOpcode.Copy:
                return Copy(command, dma, out first);
            case AdapterOpcode.CreateQueueSet:
                return CreateQueueSet(command, out first);
            case AdapterOpcode.DestroyQueueSet:
                return unit.Sets.Destroy(command.Index);
            case AdapterOpcode.CreateVirtioBlock:
                return CreateVirtioBlock(command, dma, out first);
            case AdapterOpcode.DestroyVirtio:
                return unit.Windows.Remove(command.Index);
            default:
                return commanded is null ? NotPhysical(command.Opcode) : Execute(commanded, command, dma, out first, out second);
        }
    }

    private static Errno NotPhysical(AdapterOpcode opcode) => IsPhysical(opcode) ? Errno.EPERM : Errno.EOPNOTSUPP;

    private static bool IsPhysical(AdapterOpcode opcode) =>
        opcode is AdapterOpcode.SetLink or (>= AdapterOpcode.QueryFunction and <= AdapterOpcode.QueryGeneration);

    private Errno Execute(FunctionTable table, in AdapterCommand command, DmaPort dma, out ulong first, out ulong second)
    {
        first = second = 0;
        if (!IsPhysical(command.Opcode))
            return Errno.EOPNOTSUPP;
        if (command.Opcode == AdapterOpcode.SetLink)
            return SetLink(command);
        if (!table.TryGetSettings(command.Index, out var settings))
            return Errno.ENOENT;
        var exists = table.TryGet(command.Index, out var function);
        switch (command.Opcode)
        {
            case AdapterOpcode.QueryFunction:
                first = exists ? function.Registers.MacAddress : settings.MacAddress;
                second = (uint)settings.QueueSets | (exists ? 1u << 16 : 0) | (exists ? (uint)function.Registers.Suspend << 24 : 0);
                return Errno.None;
            case AdapterOpcode.SetFunction:
                return SetSettings(table, command);
        }
        // What else there is was deferred if the function was there.
        if (!exists || command.Opcode != AdapterOpcode.QueryGeneration)
            return Errno.ENODEV;
        first = function.Registers.Generation;
        return Errno.None;
    }

    // On the lane's own scratch memory, which no frame needs at this moment: one piece of work at a time.
    private Errno Copy(in AdapterCommand command, DmaPort dma, out ulong copied)
    {
        copied = 0;
        if (command[2] is 0 or > AdapterLane.ScratchSize)
            return Errno.EINVAL;
        var bytes = unit.Lane.Scratch.AsSpan(0, (int)command[2]);
        if (!dma.TryRead(new Iova(command[0]), bytes) || !dma.TryWrite(new Iova(command[1]), bytes))
            return Errno.EFAULT;
        copied = command[2];
        return Errno.None;
    }

    private Errno CreateQueueSet(in AdapterCommand command, out ulong result)
    {
        result = 0;
        var sizes = command[3];
        // Bits 0-7 and 8-15: log2 of the rings; 16-31: the vector; the rest is reserved.
        if (sizes >> 32 != 0)
            return Errno.EINVAL;
        var wanted = new QueueSetState(
            0, (ushort)(sizes >> 16), (byte)sizes, (byte)(sizes >> 8), new Iova(command[0]), new Iova(command[1]), new Iova(command[2]));
        if (unit.FreeQueueSets == 0)
            return Errno.ENOSPC;
        var status = unit.Sets.Create(wanted, out var id);
        result = id;
        return status;
    }

    private Errno CreateVirtioBlock(in AdapterCommand command, DmaPort dma, out ulong result)
    {
        result = 0;
        Span<byte> bytes = stackalloc byte[VirtioBlockParameters.Size];
        if (!dma.TryRead(new Iova(command[0]), bytes))
            return Errno.EFAULT;
        if (!VirtioBlockParameters.TryRead(bytes, out var parameters))
            return Errno.EINVAL;
        // Each is a queue set of the function's, and has a vector; that bounds what a guest can take of the host.
        if (parameters.Queues > unit.FreeQueueSets || parameters.Queues > unit.Limits.Vectors - unit.Windows.Queues)
            return Errno.ENOSPC;
        var status = unit.Engine.CreateBlockFunction(parameters, out var device);
        if (status != Errno.None)
            return status;
        var index = 0;
        status = unit.Port.PortOf(parameters.Pasid) is { } port ? unit.Windows.Add(device!, port, out index) : Errno.ENODEV;
        if (status == Errno.None)
            result = (ulong)index;
        else
            device!.Dispose();
        return status;
    }

    private Errno SetLink(in AdapterCommand command)
    {
        if (command[0] > 1)
            return Errno.EINVAL;
        if (unit.Engine.IsLinkUp != (command[0] == 1))
            unit.Engine.SetLink(command[0] == 1);
        return Errno.None;
    }

    private static Errno SetSettings(FunctionTable table, in AdapterCommand command)
    {
        if (command[0] == 0 || command[0] >> 48 != 0 || (command[0] & GroupBit) != 0 || command[1] is 0 or > FunctionTable.MaxQueueSets)
            return Errno.EINVAL;
        return table.TrySetSettings(command.Index, new FunctionSettings(command[0], (int)command[1])) ? Errno.None : Errno.EBUSY;
    }
}
