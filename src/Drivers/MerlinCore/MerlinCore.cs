using Virtbus.Buses.Faux;
using Virtbus.Drivers.Nic;
using Virtbus.Hardware.Adapter;
using Virtbus.Hardware.VirtioBlk;
using Virtbus.Platform;

namespace Virtbus.Drivers.MerlinCore;

/// <summary>Speaks to a merlin adapter through its mailbox.</summary>
internal sealed class MerlinCore(FauxDevice<MerlinAdapter> device) : NicCore(device)
{
    private readonly MerlinAdapter _hardware = device.Hardware;

    public override NicIdentity Identify()
    {
        var capabilities = Execute(MerlinOpcode.QueryCapabilities, 0);
        return new NicIdentity(MerlinAdapter.Model, Execute(MerlinOpcode.QueryAddress, 0), (int)(capabilities & 0xFFFF), (int)(capabilities >> 16));
    }

    public override VirtioBlkDevice CreateBlockFunction(string name, string medium, string serial, int queues) =>
        _hardware.CreateBlockFunction(name, medium, serial, queues);

    protected override QueueSet AllocateQueueSet(int depth)
    {
        var handle = (uint)Execute(MerlinOpcode.AllocateQueueSet, (uint)depth);
        return _hardware.MapQueueSet(handle)
            ?? throw new VirtbusException(Errno.EIO, $"Adapter {Device.Name} replied with handle {handle}, which is no queue set. Reset the adapter.");
    }

    protected override void FreeQueueSet(QueueSet set) => Execute(MerlinOpcode.FreeQueueSet, set.Id);

    private ulong Execute(MerlinOpcode opcode, uint argument)
    {
        var reply = _hardware.Execute(new MerlinCommand(opcode, argument));
        return reply.Status == Errno.None
            ? reply.Value
            : throw new VirtbusException(reply.Status, $"Adapter {Device.Name} refused {opcode}({argument}): {reply.Status}. Check the argument, or free a queue set.");
    }
}
