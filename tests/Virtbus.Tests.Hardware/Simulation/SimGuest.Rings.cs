using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Hardware.Simulation;

// What goes through the rings, and whether memory stays as it is where it is to.
internal abstract partial class SimGuest
{
    private const byte Canary = 0xCA;

    /// <summary>For a planted bug: notifications of new buffers get lost.</summary>
    public bool IsUnheard { get; set; }

    /// <summary>Whether the driver may put something into its rings.</summary>
    public bool CanSubmit => IsUp && HasData && IsThere && !NeedsReset;

    /// <summary>The device gave up: its driver asked for what can't be.</summary>
    public bool NeedsReset => IsUp && IsThere && (Device!.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0;

    /// <summary>Puts a request of some kind into a ring.</summary>
    public abstract void Submit();

    /// <summary>Puts in what has to come back, in the end; without a choice.</summary>
    public abstract void SubmitLast();

    /// <summary>Shows the device what was put in.</summary>
    public void Publish(SimQueue queue)
    {
        if (!queue.HasUnpublished || queue.Ring is null)
            return;
        Verify();
        queue.HasUnpublished = false;
        var wants = queue.Ring.Publish();
        Wrote();
        Note("publish", queue.Index);
        if ((wants || Sim.Next(8) == 0) && !IsUnheard)
            Registers.Notify(queue.Index);
    }

    /// <summary>Asks to be told of used buffers, or to be not.</summary>
    public void Arm(SimQueue queue)
    {
        if (queue.Ring is null || IsQuiet)
            return;
        var wants = Sim.Next(4) > 0;
        queue.IsCalled = false;
        // A virtual function has no line.
        queue.IsArmed = !queue.Ring.RequestCalls(wants) && wants && (_hasMessages || !IsVirtual);
        if (Sim.Next(2) == 0)
            TakeInterrupts();
    }

    /// <summary>Accesses that a driver may make at any moment.</summary>
    public virtual void Meddle()
    {
        switch (Sim.Next(4))
        {
            case 0:
                Registers.Notify(Sim.Next(Queues.Length));
                break;
            case 1:
                TakeInterrupts();
                break;
            case 2:
                Span<byte> registers = stackalloc byte[VirtioCommonConfig.Size];
                Registers.Read(0, registers);
                Require(registers[VirtioCommonConfig.device_status] == Device!.Status, "its status is another one in its registers");
                break;
            default:
                Registers.ReadConfig(0, stackalloc byte[Device!.ConfigSize]);
                break;
        }
    }

    /// <summary>All that it asked for is answered, but for what waits for others.</summary>
    public virtual void CheckAnswered()
    {
        foreach (var queue in Queues)
            Require(queue.Outstanding == 0 || Waits(queue) || NeedsReset, $"{queue.Outstanding} requests in queue {queue.Index} are not answered");
    }

    /// <summary>For a planted bug: a device that writes when it may not.</summary>
    public void Scribble() => Sim.Memory.Write(_slice + 5, [1]);

    /// <summary>For a planted bug: a device that hands a buffer back once more.</summary>
    public void Repeat()
    {
        Span<byte> index = stackalloc byte[2];
        foreach (var queue in Queues)
        {
            if (queue is not { Ring: SplitDriverRing ring, Taken: > 0 } || IsQuiet)
                continue;
            var at = _slice + (ring.Layout.DeviceArea.Value - Base) + 2;
            Sim.Memory.Read(at, index);
            BinaryPrimitives.WriteUInt16LittleEndian(index, (ushort)(BinaryPrimitives.ReadUInt16LittleEndian(index) + 1));
            Sim.Memory.Write(at, index);
        }
    }

    /// <summary>Takes what the device is done with.</summary>
    public void Reap()
    {
        foreach (var queue in Queues)
            Reap(queue);
    }

    /// <summary>A function of the guest's kind, which is no virtual one.</summary>
    protected abstract (PciFunction Function, VirtioDevice Device) Make();

    /// <summary>A device is new.</summary>
    protected virtual void Made()
    {
    }

    /// <summary>Features that the driver leaves out this time.</summary>
    protected abstract VirtioFeatures Without();

    /// <summary>The device runs.</summary>
    protected virtual void Began()
    {
    }

    /// <summary>A queue runs again after its own reset.</summary>
    protected virtual void QueueBegan(SimQueue queue)
    {
    }

    /// <summary>Whether what is out in a queue waits for what others do.</summary>
    protected virtual bool Waits(SimQueue queue) => false;

    /// <summary>A request came back.</summary>
    protected abstract void Finish(SimQueue queue, SimRequest request, uint written);

    /// <summary>A request does not come back: its queue was reset.</summary>
    protected virtual void Lose(SimQueue queue, SimRequest request)
    {
    }

    /// <summary>Another user begins.</summary>
    protected virtual void Restarted()
    {
    }

    /// <summary>The state is saved, and another function goes on with it.</summary>
    protected virtual void Left()
    {
    }

    /// <summary>Compares what the device counted with what came back.</summary>
    protected virtual void CheckCounters()
    {
    }

    /// <summary>Some features, each left out half of the time.</summary>
    protected VirtioFeatures Some(params ReadOnlySpan<int> bits)
    {
        var without = VirtioFeatures.None;
        foreach (var bit in bits)
            without = Sim.Next(2) == 0 ? without.With(bit) : without;
        return without;
    }

    protected VirtioFeatures SomeOfRings() => Some(
        VirtioFeatures.VIRTIO_F_EVENT_IDX, VirtioFeatures.VIRTIO_F_INDIRECT_DESC, VirtioFeatures.VIRTIO_F_IN_ORDER, VirtioFeatures.VIRTIO_F_RING_PACKED);

    protected void Write(int slot, int at, ReadOnlySpan<byte> bytes) => Sim.Memory.Write(Place(slot, at), bytes);

    protected void Read(int slot, int at, Span<byte> bytes) => Sim.Memory.Read(Place(slot, at), bytes);

    protected void Clear(int slot, int at, int length)
    {
        Span<byte> bytes = stackalloc byte[length];
        bytes.Fill(Canary);
        Write(slot, at, bytes);
    }

    /// <summary>What the device was not to write is as it was.</summary>
    protected void CheckClear(int slot, int at, int length)
    {
        Span<byte> bytes = stackalloc byte[length];
        Read(slot, at, bytes);
        Require(!bytes.ContainsAnyExcept(Canary), $"something is written behind what is said to be written, in slot {slot}");
    }

    protected DriverBuffer Buffer(int slot, int at, int length, bool deviceWrites) =>
        new(new Iova(Base + DataAt + ((ulong)slot * SlotBytes) + (ulong)at), (uint)length, deviceWrites);

    /// <summary>Cuts a buffer into pieces, as the driver likes.</summary>
    protected void Cut(List<DriverBuffer> to, int slot, int at, int length, bool deviceWrites)
    {
        while (length > 1 && to.Count < 4 && Sim.Next(3) == 0)
        {
            var first = 1 + Sim.Next(length - 1);
            to.Add(Buffer(slot, at, first, deviceWrites));
            (at, length) = (at + first, length - first);
        }

        to.Add(Buffer(slot, at, length, deviceWrites));
    }

    protected bool Put(SimQueue queue, SimRequest request, List<DriverBuffer> buffers)
    {
        Verify();
        var list = CollectionsMarshal.AsSpan(buffers);
        foreach (var buffer in list)
            request.Writable += buffer.DeviceWrites ? buffer.Length : 0;
        int name;
        if (Features.Has(VirtioFeatures.VIRTIO_F_INDIRECT_DESC) && Sim.Next(3) == 0)
        {
            RingForm.WriteTable(queue.Ring is PackedDriverRing, Sim.Memory, Place(request.Slot, (int)TableAt), list);
            name = queue.Ring!.AddIndirect(new Iova(Base + DataAt + ((ulong)request.Slot * SlotBytes) + TableAt), (uint)(list.Length * SplitRing.DescriptorSize));
        }
        else
        {
            name = queue.Ring!.Add(list);
        }

        if (name < 0)
        {
            queue.GiveSlot(request.Slot);
            Wrote();
            return false;
        }

        Require(!queue.IsOut(name), $"queue {queue.Index} gives a name away twice");
        queue.Put(name, request);
        queue.HasUnpublished = true;
        Note("put", queue.Index);
        Wrote();
        if (Sim.Next(3) > 0)
            Publish(queue);
        return true;
    }

    /// <summary>Checks what is to be still, where it is to be.</summary>
    public void Verify()
    {
        if (!_isFrozen)
            return;
        var now = Sim.Scratch;
        Sim.Memory.Read(_slice, now);
        if (!now.AsSpan().SequenceEqual(_frozen))
            Require(false, $"its memory is written at 0x{now.AsSpan().CommonPrefixLength(_frozen):x}, and its device may do no DMA");
    }

    private void Reap(SimQueue queue)
    {
        if (queue.Ring is null)
            return;
        var taken = 0;
        while (!Sim.IsOver && queue.Ring.TryTakeUsed(out var name, out var written, out _))
        {
            if (queue.Take(name) is not { } request)
            {
                Require(false, $"queue {queue.Index} hands back {name}, which is not out");
                return;
            }

            Require(!queue.IsArmed || queue.IsCalled || (Line && !_hasMessages), $"queue {queue.Index} has used buffers and did not tell");
            queue.IsArmed = false;
            queue.Taken++;
            Note("done", queue.Index);
            Finish(queue, request, Math.Min(written, request.Writable));
            Require(written == uint.MaxValue || written <= request.Writable, $"queue {queue.Index} says that it wrote {written} bytes to {request.Writable}");
            queue.GiveSlot(request.Slot);
            taken++;
        }

        Require(queue.Ring.Fault == Fault.None, $"queue {queue.Index} is broken by its device: {queue.Ring.Fault.Message}");
    }

    private void TakeInterrupts()
    {
        if ((Registers.TakeInterrupts() & 1) == 0)
            return;
        // It looks at all of them.
        foreach (var queue in Queues)
            queue.IsCalled = true;
    }

    private void Disarm()
    {
        foreach (var queue in Queues)
            queue.IsArmed = false;
    }

    // The device stands still: what it is done with is the driver's, the rest is for nobody.
    private void End(SimQueue queue)
    {
        queue.IsArmed = false;
        Reap(queue);
        foreach (var request in queue.Out.ToArray())
            Lose(queue, request);
        queue.Clear();
    }

    private void Ended()
    {
        if (!IsUp)
            return;
        foreach (var queue in Queues)
            End(queue);
        IsUp = false;
    }

    private void Drain() => Sim.RunToEnd();

    /// <summary>The device may do DMA from here on, if it may.</summary>
    private void Melt()
    {
        Verify();
        _isFrozen &= IsQuiet;
        _isSilent &= !IsServed;
        _isMute &= !IsServed || !IsMaster;
    }

    /// <summary>The driver wrote to memory that stands still for the device.</summary>
    protected void Wrote()
    {
        if (_isFrozen)
            Sim.Memory.Read(_slice, _frozen);
    }

    private void Settle()
    {
        _isSilent = !IsServed;
        _isMute = _isSilent || !IsMaster;
        if (_isFrozen && IsQuiet)
        {
            Verify();
            return;
        }

        _isFrozen = IsQuiet;
        Wrote();
    }

    private ulong Place(int slot, int at) => _slice + DataAt + ((ulong)slot * SlotBytes) + (ulong)at;
}
