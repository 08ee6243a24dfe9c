using Virtbus.Buses.Faux;
using Virtbus.Drivers.Nic;
using Virtbus.Hardware.Adapter;
using Virtbus.Hardware.VirtioBlk;
using Virtbus.Platform;

namespace Virtbus.Drivers.HarrierCore;

/// <summary>Speaks to a harrier adapter through its registers.</summary>
internal sealed class HarrierCore(FauxDevice<HarrierAdapter> device) : NicCore(device)
{
    private readonly HarrierAdapter _hardware = device.Hardware;
    private readonly Lock _command = new();

    public override NicIdentity Identify()
    {
        var capabilities = _hardware.Read(HarrierRegister.Capabilities);
        var address = ((ulong)_hardware.Read(HarrierRegister.AddressHigh) << 32) | _hardware.Read(HarrierRegister.AddressLow);
        return new NicIdentity(HarrierAdapter.Model, address, (int)(capabilities & 0xFF), (int)(capabilities >> 8 & 0xFF));
    }

    public override VirtioBlkDevice CreateBlockFunction(string name, string medium, string serial, int queues) =>
        _hardware.CreateBlockFunction(name, medium, serial, queues);

    protected override QueueSet AllocateQueueSet(int depth)
    {
        var index = Execute(HarrierCommand.AllocateQueueSet, (uint)depth);
        return _hardware.QueueWindow(index)
            ?? throw new VirtbusException(Errno.EIO, $"Adapter {Device.Name} resulted in index {index}, which is no queue set. Reset the adapter.");
    }

    protected override void FreeQueueSet(QueueSet set) => Execute(HarrierCommand.FreeQueueSet, set.Id);

    // Argument, command, status and result are one sequence of accesses.
    private uint Execute(HarrierCommand command, uint argument)
    {
        lock (_command)
        {
            _hardware.Write(HarrierRegister.Argument, argument);
            _hardware.Write(HarrierRegister.Command, (uint)command);
            var status = (Errno)_hardware.Read(HarrierRegister.Status);
            return status == Errno.None
                ? _hardware.Read(HarrierRegister.Result)
                : throw new VirtbusException(status, $"Adapter {Device.Name} refused {command}({argument}): {status}. Check the argument, or free a queue set.");
        }
    }
}
