using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioConsole;
using Virtbus.Pci;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>A guest with a console, and who sits at its other end. Text goes both ways in order, each byte once.</summary>
internal sealed class ConsoleGuest(VirtioSimulation sim, int number, string name) : SimGuest(sim, number, name, 2), IConsolePeer
{
    private const int MostBytes = 1000;
    private readonly List<DriverBuffer> _buffers = [];
    private readonly byte[] _bytes = new byte[MostBytes];
    // On their way to the peer, oldest first.
    private readonly List<SimRequest> _sent = [];
    // Bytes that the guest has had, and that are on their way to it: byte n of all is n.
    private int _had;
    private int _given;

    public override void Submit()
    {
        if (Sim.Next(2) == 0)
            SubmitLast();
        else
            Offer();
    }

    public override void SubmitLast()
    {
        var queue = Queues[1];
        if (queue.Ring is null || !queue.HasRoom)
            return;
        var request = new SimRequest(queue.TakeSlot(), 1, Sim.TakeNumber(), Length: 1 + Sim.Next(MostBytes));
        Fill(_bytes.AsSpan(0, request.Length), (int)request.Number);
        Verify();
        Write(request.Slot, ContentAt, _bytes.AsSpan(0, request.Length));
        Wrote();
        _buffers.Clear();
        Cut(_buffers, request.Slot, ContentAt, request.Length, false);
        _sent.Add(request);
        if (!Put(queue, request, _buffers))
            _sent.Remove(request);
    }

    /// <summary>The other end types.</summary>
    public override void Meddle()
    {
        Span<byte> text = stackalloc byte[1 + Sim.Next(300)];
        Fill(text, _given);
        Note("type");
        _given += ((VirtioConsoleDevice)Device!).TrySend(text);
    }

    public override void CheckAnswered()
    {
        base.CheckAnswered();
        Require(_had == _given || Queues[0].Outstanding == 0 || NeedsReset, $"{_given - _had} bytes of text wait beside {Queues[0].Outstanding} buffers");
    }

    public int Receive(ReadOnlySpan<byte> bytes)
    {
        Note("text");
        if (_sent.Count == 0)
        {
            Require(false, "its peer gets text that nobody sent");
            return bytes.Length;
        }

        var request = _sent[0];
        _sent.RemoveAt(0);
        request.IsSeen = true;
        Span<byte> expected = stackalloc byte[request.Length];
        Fill(expected, (int)request.Number);
        Require(bytes.SequenceEqual(expected), "its peer gets other text than was sent");
        return bytes.Length;
    }

    public void CanSend() => Note("room");

    public void DropUnsent() => Note("drop");

    protected override (PciFunction Function, VirtioDevice Device) Make()
    {
        var device = new VirtioConsoleDevice(Name);
        Require(device.TryConnect(this, out _), "nobody is connected, and nobody may connect");
        return (new VirtioFunction(device), device);
    }

    protected override VirtioFeatures Without() => SomeOfRings() | Some(VirtioFeatures.VIRTIO_F_RING_RESET);

    protected override bool Waits(SimQueue queue) => queue.Index == 0;

    protected override void Finish(SimQueue queue, SimRequest request, uint written)
    {
        if (queue.Index == 1)
        {
            Require(request.IsSeen, "text came back that its peer has not got");
            return;
        }

        var bytes = _bytes.AsSpan(0, (int)written);
        Read(request.Slot, ContentAt, bytes);
        Span<byte> expected = stackalloc byte[bytes.Length];
        Fill(expected, _had);
        Require(bytes.SequenceEqual(expected), "it gets other text than was typed");
        _had += bytes.Length;
        Require(bytes.Length > 0 && _had <= _given, $"it has {_had} bytes of text, of {_given}");
        CheckClear(request.Slot, ContentAt + bytes.Length, request.Length - bytes.Length);
    }

    protected override void Lose(SimQueue queue, SimRequest request) => _sent.Remove(request);

    // What was typed for the user before is for nobody.
    protected override void Restarted() => _had = _given;

    protected override void Left() => _had = _given;

    protected override void CheckCounters()
    {
        for (var i = 0; i < Queues.Length; i++)
            Require(Device!.GetQueueCounters(i).Requests == Queues[i].Taken, $"queue {i} counted {Device.GetQueueCounters(i).Requests} requests, and {Queues[i].Taken} came back");
    }

    private static void Fill(Span<byte> bytes, int from)
    {
        for (var i = 0; i < bytes.Length; i++)
            bytes[i] = (byte)((from + i) * 7);
    }

    private void Offer()
    {
        var queue = Queues[0];
        if (queue.Ring is null || !queue.HasRoom)
            return;
        var request = new SimRequest(queue.TakeSlot(), 0, Length: 1 + Sim.Next(MostBytes));
        Verify();
        Clear(request.Slot, ContentAt, request.Length);
        Wrote();
        _buffers.Clear();
        Cut(_buffers, request.Slot, ContentAt, request.Length, true);
        Put(queue, request, _buffers);
    }
}
