using System.Numerics;
using System.Runtime.ExceptionServices;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>What the modern and the legacy transport do alike: queues with their interrupts, by the best way of sharing that function and device take.</summary>
/// <remarks>Handlers of interrupts take no lock that is held at an access to a register which may wait for the device.</remarks>
/// <param name="device">The function.</param>
/// <param name="administration">Who has the administration queue; null where there is none.</param>
internal abstract class VirtioPciTransport(PciDevice device, VirtioPciAdministration? administration) : IVirtioTransport
{
    private const byte QueueInterrupt = 1;
    private const byte ConfigInterrupt = 2;
    protected const byte Gone = 0xFF;

    private readonly Lock _lock = new();
    private VirtioPciInterrupts? _interrupts;
    private VirtioQueue[] _queues = [];
    // Beside the driver's: it is none of them, and who deletes them leaves it alone.
    private VirtioPciAdminQueue? _admin;
    private Action? _configChanged;

    public abstract uint VirtioType { get; }

    public uint VendorId => device.SubsystemVendorId;

    public abstract VirtioFeatures DeviceFeatures { get; }

    public abstract VirtioFeatures TransportFeatures { get; }

    public abstract bool IsLegacy { get; }

    public abstract byte Status { get; }

    public IommuGroup Group => device.IommuGroup;

    protected PciDevice Device => device;

    /// <summary>Selectors stand between accesses: who uses them holds it.</summary>
    protected Lock Turn => _lock;

    protected abstract int QueueCount { get; }

    protected abstract uint UsedAlignment { get; }

    public abstract bool TrySetStatus(byte status, out Fault fault);

    public abstract bool TrySettleFeatures(VirtioFeatures features, out Fault fault);

    public abstract bool TryReadConfig(int offset, Span<byte> destination, out Fault fault);

    public abstract void WriteConfig(int offset, ReadOnlySpan<byte> source);

    public void SetConfigCallback(Action? changed) => Volatile.Write(ref _configChanged, changed);

    public bool TryReset(out Fault fault)
    {
        // First: what the reset waits for may be calling one of them.
        _interrupts?.Silence();
        // What is with the device ends when its memory is taken away; nothing is given to it meanwhile.
        _admin?.Shut();
        lock (_lock)
            return TryResetDevice(out fault);
    }

    public void BreakOwn(Fault fault)
    {
        var queue = Volatile.Read(ref _admin)?.Queue;
        queue?.Break(fault);
    }

    public VirtioQueue[] CreateQueues(ReadOnlySpan<VirtioQueueSpec> specs, VirtioFeatures features, Action<VirtioQueue, Fault> broken)
    {
        if (_queues.Length > 0)
            throw new InvalidOperationException($"The queues of {device.Name} are made once after each reset.");
        var waited = 0;
        foreach (var spec in specs)
            waited += spec.Used is null ? 0 : 1;
        var own = FindAdminQueue(features);
        waited += own is null ? 0 : 1;
        VirtbusException? error = null;
        foreach (var sharing in (ReadOnlySpan<VirtioPciSharing>)[VirtioPciSharing.PerQueue, VirtioPciSharing.Shared, VirtioPciSharing.Line])
        {
            if (!VirtioPciInterrupts.TryAllocate(device, sharing, waited, out _interrupts, out error))
                continue;
            try
            {
                if (TryCreate(specs, own, features, broken))
                    return _queues;
                error = new VirtbusException(Errno.EBUSY, $"Device {device.Name} has no vector left for its virtio queues, though it has them in its table.");
            }
            catch
            {
                GiveUp();
                throw;
            }

            GiveUp();
        }

        throw error!;
    }

    public void DeleteQueues()
    {
        _interrupts?.Dispose();
        _interrupts = null;
        foreach (var queue in _queues)
            queue.Dispose();
        _queues = [];
        DeleteAdminQueue();
    }

    /// <summary>The device runs.</summary>
    protected void StartAdministration()
    {
        if (_admin is { } admin)
            administration?.Start(admin);
    }

    /// <summary>The number of the administration queue; null when there is none.</summary>
    /// <param name="features">What was settled.</param>
    /// <exception cref="VirtbusException">EINVAL: what the device says of it makes no sense.</exception>
    protected virtual int? FindAdminQueue(VirtioFeatures features) => null;

    protected abstract bool TryResetDevice(out Fault fault);

    /// <summary>Reads the ISR, which clears it; all ones when the device is gone. Takes no lock.</summary>
    protected abstract byte TakeInterrupts();

    protected abstract bool TrySetConfigVector(ushort vector);

    /// <summary>The largest size of a queue that is not in use; its number is below <see cref="QueueCount"/>, or the administration queue's.</summary>
    /// <exception cref="VirtbusException">ENOENT: there is none; EINVAL: it can't be notified.</exception>
    protected abstract int LookAt(int queue);

    /// <summary>Tells the device of a queue's vector and ring.</summary>
    /// <returns>False when it has no vector left for it.</returns>
    protected abstract bool TryPlace(int queue, in RingLayout layout, ushort vector);

    /// <summary>Takes a queue back that was placed and not enabled.</summary>
    protected abstract void Withdraw(int queue);

    /// <summary>All queues are placed: the device takes this one. There is no way back from it but a reset.</summary>
    protected abstract void Enable(int queue);

    protected abstract void Notify(VirtioQueue queue);

    private void GiveUp()
    {
        _interrupts?.Silence();
        lock (_lock)
        {
            foreach (var queue in _queues)
                Withdraw(queue.Index);
            if (_admin?.Queue is { } admin)
                Withdraw(admin.Index);
        }

        DeleteQueues();
    }

    private void DeleteAdminQueue()
    {
        if (_admin is not { } admin)
            return;
        administration?.Stop();
        Volatile.Write(ref _admin, null);
        admin.Dispose();
    }

    private bool TryCreate(ReadOnlySpan<VirtioQueueSpec> specs, int? own, VirtioFeatures features, Action<VirtioQueue, Fault> broken)
    {
        var interrupts = _interrupts!;
        _queues = new VirtioQueue[specs.Length];
        lock (_lock)
        {
            var made = 0;
            try
            {
                for (; made < specs.Length; made++)
                {
                    var index = specs[made].Number ?? made;
                    if (index >= QueueCount)
                        throw new VirtbusException(Errno.ENOENT, $"Device {device.Name} has {QueueCount} virtio queues, and its driver needs number {index}.");
                    _queues[made] = Make(index, specs[made], features, broken);
                }
            }
            finally
            {
                if (made < specs.Length)
                    _queues = _queues[..made];
            }

            if (own is { } number)
                MakeAdminQueue(number, features, broken);
            var admin = _admin?.Queue;
            SetHandlers(interrupts, specs, admin);
            if (interrupts.Sharing != VirtioPciSharing.Line && !TrySetConfigVector(0))
                return false;
            var vector = 0;
            for (var i = 0; i < specs.Length; i++)
            {
                if (!TryPlace(_queues[i], isWaited: specs[i].Used is not null, interrupts.Sharing, ref vector))
                    return false;
            }

            if (admin is not null && !TryPlace(admin, isWaited: true, interrupts.Sharing, ref vector))
                return false;
            foreach (var queue in _queues)
                Enable(queue.Index);
            if (admin is not null)
                Enable(admin.Index);
            return true;
        }
    }

    private bool TryPlace(VirtioQueue queue, bool isWaited, VirtioPciSharing sharing, ref int vector)
    {
        var isTold = isWaited && sharing != VirtioPciSharing.Line;
        if (isTold && (vector == 0 || sharing == VirtioPciSharing.PerQueue))
            vector++;
        return TryPlace(queue.Index, queue.Layout, isTold ? (ushort)vector : VIRTIO_MSI_NO_VECTOR);
    }

    private void MakeAdminQueue(int number, VirtioFeatures features, Action<VirtioQueue, Fault> broken)
    {
        var admin = _admin = new VirtioPciAdminQueue(Group, device.Fabric!.Time);
        admin.Attach(Make(number, new VirtioQueueSpec($"avq.{number}", admin.OnUsed, VirtioPciAdminQueue.Depth), features, (queue, fault) =>
        {
            admin.OnBroken(fault);
            broken(queue, fault);
        }));
    }

    private VirtioQueue Make(int index, in VirtioQueueSpec spec, VirtioFeatures features, Action<VirtioQueue, Fault> broken)
    {
        var most = LookAt(index);
        var isPacked = features.Has(VirtioFeatures.VIRTIO_F_RING_PACKED);
        if (most > SplitRing.MaxSize && Status == Gone)
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is gone.");
        if (most > SplitRing.MaxSize || (!isPacked && !int.IsPow2(most)))
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} says that its virtio queue {index} has {most} descriptors, which no such queue can have.");
        // The size of a queue from before version 1.0 is the device's.
        var size = IsLegacy ? most : Math.Min(most, spec.MaxSize);
        if (!isPacked)
            size = 1 << BitOperations.Log2((uint)size);
        return VirtioQueue.Create(Group, index, spec, size, features, UsedAlignment, Notify, broken);
    }

    private void SetHandlers(VirtioPciInterrupts interrupts, ReadOnlySpan<VirtioQueueSpec> specs, VirtioQueue? admin)
    {
        VirtioQueue[] queues = admin is null ? _queues : [.. _queues, admin];
        if (interrupts.Sharing == VirtioPciSharing.Line)
        {
            interrupts.SetFirst(() => TakeLine(interrupts, queues));
            return;
        }

        interrupts.SetFirst(() => Volatile.Read(ref _configChanged)?.Invoke());
        if (interrupts.Sharing == VirtioPciSharing.Shared)
        {
            interrupts.Set(1, () => InterruptAll(queues));
            return;
        }

        var vector = 0;
        for (var i = 0; i < specs.Length; i++)
        {
            if (specs[i].Used is not null)
                interrupts.Set(++vector, queues[i].Interrupt);
        }

        if (admin is not null)
            interrupts.Set(++vector, admin.Interrupt);
    }

    private void TakeLine(VirtioPciInterrupts interrupts, VirtioQueue[] queues)
    {
        var cause = TakeInterrupts();
        if (cause == Gone)
        {
            interrupts.MaskLine();
            return;
        }

        if ((cause & ConfigInterrupt) != 0)
            Volatile.Read(ref _configChanged)?.Invoke();
        if ((cause & QueueInterrupt) != 0)
            InterruptAll(queues);
    }

    // A callback that fails is told of by the vector, and takes nothing from the queues behind it.
    private static void InterruptAll(VirtioQueue[] queues)
    {
        ExceptionDispatchInfo? failed = null;
        foreach (var queue in queues)
        {
            try
            {
                queue.Interrupt();
            }
            catch (Exception e)
            {
                failed = ExceptionDispatchInfo.Capture(e);
            }
        }

        failed?.Throw();
    }
}
