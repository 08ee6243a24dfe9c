using System.Buffers.Binary;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>A guest with an entropy source, which gives a number that it gives nobody else, and what follows from that.</summary>
internal sealed class RngGuest(VirtioSimulation sim, int number, string name) : SimGuest(sim, number, name, 1)
{
    private const int MostBytes = 1000;
    private readonly List<DriverBuffer> _buffers = [];
    private readonly byte[] _bytes = new byte[MostBytes];
    private ulong _last;

    public override void Submit()
    {
        var queue = Queues[0];
        if (queue.Ring is null || !queue.HasRoom)
            return;
        var request = new SimRequest(queue.TakeSlot(), 0, Length: 8 + Sim.Next(MostBytes - 8));
        Verify();
        Clear(request.Slot, ContentAt, MostBytes);
        Wrote();
        _buffers.Clear();
        Cut(_buffers, request.Slot, ContentAt, request.Length, true);
        Put(queue, request, _buffers);
    }

    public override void SubmitLast() => Submit();

    protected override (PciFunction Function, VirtioDevice Device) Make()
    {
        var device = new VirtioRngDevice(Name, Fill);
        return (new VirtioFunction(device), device);
    }

    protected override VirtioFeatures Without() => SomeOfRings() | Some(VirtioFeatures.VIRTIO_F_RING_RESET);

    protected override void Finish(SimQueue queue, SimRequest request, uint written)
    {
        Require(written == request.Length, $"{request.Length} bytes were asked for, {written} came");
        var bytes = _bytes.AsSpan(0, request.Length);
        Read(request.Slot, ContentAt, bytes);
        var first = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        Require(first > _last, $"random bytes {first} came after {_last}: somebody has them already");
        _last = first;
        for (var i = 8; i < bytes.Length; i++)
            Require(bytes[i] == (byte)(first + (ulong)i), $"byte {i} of random bytes {first} is another one");
        CheckClear(request.Slot, ContentAt + request.Length, MostBytes - request.Length);
    }

    protected override void CheckCounters() =>
        Require(Device!.GetQueueCounters(0).Requests == Queues[0].Taken, $"it counted {Device.GetQueueCounters(0).Requests} requests, and {Queues[0].Taken} came back");

    private void Fill(Span<byte> bytes)
    {
        var value = Sim.TakeNumber();
        for (var i = 0; i < bytes.Length; i++)
            bytes[i] = (byte)(value + (ulong)i);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
    }
}
