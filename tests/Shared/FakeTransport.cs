using System.Collections.Concurrent;
using Virtbus.Buses.Virtio;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Tests;

/// <summary>A device that does nothing but keep its status, for the bus above: what it is asked is noted, and a test makes it refuse.</summary>
internal sealed class FakeTransport : IVirtioTransport
{
    private Action? _changed;

    public ConcurrentQueue<string> Calls { get; } = new();

    public uint VirtioType { get; init; } = 4;

    public uint VendorId { get; init; } = 0x1AF4;

    public VirtioFeatures DeviceFeatures { get; init; } = VirtioFeatures.Of(0, 1, 2, VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_ACCESS_PLATFORM);

    public VirtioFeatures TransportFeatures { get; init; } = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);

    public bool IsLegacy { get; init; }

    public byte Status { get; set; }

    public int QueueSize { get; set; } = 4;

    public IommuGroup Group { get; } = new(1);

    /// <summary>The queues that a driver has made, as soon as they are there.</summary>
    public VirtioQueue[] Queues { get; private set; } = [];

    /// <summary>Bytes of the configuration space; none at first.</summary>
    public byte[] Config { get; init; } = [];

    /// <summary>Whether the memory of its queues goes with them; else a test may look at them afterwards.</summary>
    public bool FreesQueues { get; init; }

    /// <summary>Called after each read of the configuration, with its offset: a device that changes it then.</summary>
    public Action<int>? ConfigRead { get; set; }

    public Fault ResetFault { get; set; }

    /// <summary>What the device does last before it is reset.</summary>
    public Action? Resetting { get; set; }

    public Fault FeatureFault { get; set; }

    public VirtioFeatures Settled { get; private set; }

    public bool TrySetStatus(byte status, out Fault fault)
    {
        Calls.Enqueue($"status {status:x}");
        return VirtioStatusRules.TryAdvance(Status, status, out fault) && Set(status);
    }

    public bool TrySettleFeatures(VirtioFeatures features, out Fault fault)
    {
        Calls.Enqueue("features");
        Settled = features;
        fault = FeatureFault;
        return fault == Fault.None && Set((byte)(Status | VirtioStatus.FEATURES_OK));
    }

    public bool TryReset(out Fault fault)
    {
        Calls.Enqueue("reset");
        Resetting?.Invoke();
        fault = ResetFault;
        return fault == Fault.None && Set(0);
    }

    public bool TryReadConfig(int offset, Span<byte> destination, out Fault fault)
    {
        fault = offset + destination.Length <= Config.Length ? Fault.None : new Fault(Errno.EINVAL, "it ends before");
        if (fault == Fault.None)
            Config.AsSpan(offset, destination.Length).CopyTo(destination);
        ConfigRead?.Invoke(offset);
        return fault == Fault.None;
    }

    public void WriteConfig(int offset, ReadOnlySpan<byte> source) => source.CopyTo(Config.AsSpan(offset));

    public VirtioQueue[] CreateQueues(ReadOnlySpan<VirtioQueueSpec> specs, VirtioFeatures features, Action<VirtioQueue, Fault> broken)
    {
        Calls.Enqueue("queues");
        var queues = new VirtioQueue[specs.Length];
        for (var i = 0; i < queues.Length; i++)
            queues[i] = VirtioQueue.Create(Group, specs[i].Number ?? i, specs[i], QueueSize, features, 4, static _ => { }, broken);
        Queues = queues;
        return queues;
    }

    public void BreakOwn(Fault fault) => Calls.Enqueue($"break {fault.Errno}");

    public void DeleteQueues()
    {
        Calls.Enqueue("delete");
        if (FreesQueues)
            Array.ForEach(Queues, static q => q.Dispose());
        Queues = [];
    }

    public void SetConfigCallback(Action? changed) => _changed = changed;

    /// <summary>The device interrupts for its configuration.</summary>
    internal void Change() => _changed?.Invoke();

    private bool Set(byte status)
    {
        Status = status;
        return true;
    }
}
