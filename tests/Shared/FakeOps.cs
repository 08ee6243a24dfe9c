using System.Collections.Concurrent;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests;

/// <summary>A device of nothing but bytes: region 0 can be read and written, 1 only read, 2 is not there; interrupts as a test gives them.</summary>
internal class FakeOps : IVfioDeviceOps
{
    private readonly ConcurrentQueue<string> _calls = new();

    public byte[] Bytes { get; } = new byte[64];

    public string[] Calls => [.. _calls];

    public VfioIrqInfo[] Irqs { get; init; } = [new(VfioIrqFlags.EventFd | VfioIrqFlags.Maskable | VfioIrqFlags.AutoMasked, 1), new(VfioIrqFlags.EventFd | VfioIrqFlags.NoResize, 4)];

    public Fault OpenFault { get; set; }

    public Action? OnOpen { get; set; }

    public Action? OnWrite { get; set; }

    public Action<int>? OnRequest { get; set; }

    public Action? OnClose { get; set; }

    public bool IsOpen { get; private set; }

    public bool CanReset { get; init; } = true;

    public VfioDeviceInfo Info => new(CanReset, IsPci: false, Regions: 3, Irqs.Length);

    public IVfioMigrationOps? Migration { get; init; }

    public IVfioDmaLoggingOps? DmaLogging { get; init; }

    public virtual bool TryOpen(VfioOwner user, out Fault fault)
    {
        Say("open");
        OnOpen?.Invoke();
        fault = OpenFault;
        IsOpen = fault == Fault.None;
        return IsOpen;
    }

    public void Close()
    {
        Say("close");
        OnClose?.Invoke();
        IsOpen = false;
    }

    public VfioRegionInfo GetRegionInfo(uint index)
    {
        Say($"region {index}");
        return index switch
        {
            0 => new(VfioRegionFlags.Read | VfioRegionFlags.Write, (ulong)Bytes.Length),
            1 => new(VfioRegionFlags.Read, 16),
            _ => new(VfioRegionFlags.None, 0),
        };
    }

    public VfioIrqInfo GetIrqInfo(uint index) => Irqs[index];

    public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
    {
        fault = Fault.None;
        Bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
        return true;
    }

    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        fault = Fault.None;
        OnWrite?.Invoke();
        source.CopyTo(Bytes.AsSpan((int)offset));
        return true;
    }

    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault)
    {
        fault = Fault.None;
        Say($"irqs {set.Index} {set.Start} {set.Count}");
        return true;
    }

    public bool TryReset(out Fault fault)
    {
        fault = Fault.None;
        Say("reset");
        return true;
    }

    public void Request(int count)
    {
        Say($"request {count}");
        OnRequest?.Invoke(count);
    }

    public bool TryAttach(IoAddressSpace? space, uint? pasid, out Fault fault)
    {
        fault = Fault.None;
        Say($"attach {pasid}");
        return true;
    }

    public IReadOnlyList<VfioDoorbell> GetDoorbells(uint region) => region == 0 ? [new VfioDoorbell(8, 4, null)] : [];

    public bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        fault = Fault.None;
        return true;
    }

    private void Say(string call) => _calls.Enqueue(call);
}
