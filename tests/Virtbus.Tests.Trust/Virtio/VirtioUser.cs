using Virtbus.Virtio;

namespace Virtbus.Tests.Trust;

/// <summary>A guest's driver of a virtio function, in a part of the guest's memory. It stays what it is when both go to another machine.</summary>
internal abstract class VirtioUser
{
    private readonly int _at;

    /// <summary>Brings the device up.</summary>
    /// <param name="function">The function.</param>
    /// <param name="memory">The guest's memory.</param>
    /// <param name="at">Where its part begins, a page.</param>
    /// <param name="queues">How many queues it uses.</param>
    /// <param name="features">Features beside those that each driver takes.</param>
    protected VirtioUser(Attachment function, GuestMemory memory, int at, int queues, params int[] features)
    {
        (Function, Memory, _at) = (function, memory, at);
        Registers = new VirtioRegisters(function.Client);
        Rings = [.. Enumerable.Range(0, queues).Select(i => new VirtioRing(memory, at + (i * VirtioRing.Bytes)))];
        var transport = new VirtioRegisterTransport(Registers);
        var wanted = VirtioFeatures.Of([VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_ACCESS_PLATFORM, .. features]);
        byte[] steps = [VirtioStatus.ACKNOWLEDGE, VirtioStatus.DRIVER];
        Demand(transport.TryReset(out var fault), fault.Message);
        byte status = 0;
        foreach (var step in steps)
            Demand(transport.TrySetStatus(status |= step, out fault), fault.Message);
        Demand(transport.TrySetDriverFeatures(wanted, out fault), fault.Message);
        Demand(transport.TrySetStatus(status |= VirtioStatus.FEATURES_OK, out fault), fault.Message);
        Demand(transport.TrySetConfigVector(0), "the device has no vector for its configuration");
        for (var i = 0; i < queues; i++)
        {
            var (descriptors, available, used) = Rings[i].Places;
            transport.Select(i);
            transport.SetQueueSize(VirtioRing.Size);
            transport.SetQueueAddress(descriptors, available, used);
            Demand(transport.TrySetQueueVector((ushort)(1 + i)), "the device has no vector for a queue");
            Demand(transport.TryEnable(), "the device does not take a queue");
        }

        Demand(transport.TrySetStatus((byte)(status | VirtioStatus.DRIVER_OK), out fault), fault.Message);
    }

    public Attachment Function { get; private set; }

    /// <summary>Buffers that are with the device.</summary>
    public int InFlight => Rings.Sum(static r => r.InFlight);

    protected GuestMemory Memory { get; }

    protected VirtioRing[] Rings { get; }

    protected VirtioRegisters Registers { get; private set; }

    /// <summary>What the registers say that goes with the guest: status, features, and the queues.</summary>
    public static string Describe(Attachment function)
    {
        var registers = new VirtioRegisters(function.Client);
        var transport = new VirtioRegisterTransport(registers);
        var text = $"{transport.Status:x} {transport.DriverFeatures}";
        for (var queue = 0; queue < transport.QueueCount; queue++)
        {
            transport.Select(queue);
            text += $", {transport.IsEnabled} {transport.QueueSize}";
            foreach (var register in (int[])[VirtioCommonConfig.queue_desc, VirtioCommonConfig.queue_driver, VirtioCommonConfig.queue_device])
                text += $" {registers.ReadUInt32(register):x}";
            text += $" {registers.ReadUInt16(VirtioCommonConfig.queue_msix_vector)}";
        }

        return text;
    }

    /// <summary>Goes on with the function, and the memory, of another machine.</summary>
    public void MoveTo(Attachment function)
    {
        Function.Dispose();
        Function = function;
        Registers = new VirtioRegisters(function.Client);
    }

    /// <summary>Tells the device of what it was given.</summary>
    public abstract void Ring();

    /// <summary>Looks at what the device handed back.</summary>
    public abstract void Listen();

    protected int Place(int offset) => _at + (VirtioRing.Bytes * Rings.Length) + offset;

    protected static void Demand(bool holds, string what)
    {
        if (!holds)
            throw new DeviceFailure(what);
    }
}
