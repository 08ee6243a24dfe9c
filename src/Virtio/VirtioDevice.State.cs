using System.Buffers.Binary;
using System.Diagnostics;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Virtio;

// The state that moves: what the driver set up, and where each queue goes on.
public abstract partial class VirtioDevice
{
    internal const string DeviceSection = "virtio";
    internal const string QueuesSection = "virtio-queues";
    private const ushort StateVersion = 1;
    // Type 4, number of queues 2, status 1, reserved 1, features 16, configuration generation 4.
    internal const int DeviceSectionSize = 28;
    internal const int DeviceStatusAt = 6;
    internal const int DeviceFeaturesAt = 8;
    // Three areas 24, size 2, flags 2, place in the ring 4.
    internal const int QueueSize = 32;
    internal const int QueueSizeAt = 24;
    internal const int QueueFlagsAt = 26;
    internal const ushort ReadyFlag = 1;
    private const ushort BrokenFlag = 2;
    private const ushort PackedFlag = 4;
    private const byte KnownStatus = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.DRIVER_OK | VirtioStatus.FEATURES_OK
        | VirtioStatus.SUSPEND | VirtioStatus.DEVICE_NEEDS_RESET | VirtioStatus.FAILED;

    private bool _isPaused;
    private bool _owesConfigNotice;

    /// <summary>Whether the driver is to be told of a change of the configuration when the device goes on. Under the device's lock.</summary>
    protected bool OwesConfigNotice => _owesConfigNotice;

    /// <inheritdoc/>
    /// <remarks>From any thread that is no queue's. A reset by the driver ends what it set up, not the pause.</remarks>
    public bool TryPause(out Fault fault)
    {
        using (Hold())
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            StandStill();
        }

        // What is under way when a device stands still would be under way for ever in the one that goes on.
        EndResetWhenDone();
        return Done(out fault);
    }

    /// <summary>As <see cref="TryPause(out Fault)"/>, but nobody is waited for longer than that, and in vain nothing has changed.</summary>
    /// <param name="patience">How long what is in work may take, whoever it waits for: a peer that is reached by messages, a back end.</param>
    /// <param name="fault">EAGAIN: it takes longer; ENODEV: the device is gone.</param>
    public bool TryPause(TimeSpan patience, out Fault fault)
    {
        using (Hold())
        {
            if (_disposed)
                return Refuse(Errno.ENODEV, "the device is gone", out fault);
            if (_isPaused)
                return Done(out fault);
            _isPaused = true;
            foreach (var queue in _queues)
                queue.BeginStop(neverWaits: true);
        }

        // The lock is free: a queue that waits for a peer is through only when that is served, and the device may go.
        var start = Stopwatch.GetTimestamp();
        var spinner = default(SpinWait);
        while (HasEnding && Stopwatch.GetElapsedTime(start) < patience)
            spinner.SpinOnce(sleep1Threshold: 50);
        if (HasEnding)
        {
            Resume();
            return Refuse(Errno.EAGAIN, "a queue waits for a peer, or a back end", out fault);
        }

        using (Hold())
        {
            if (_disposed)
                return Refuse(Errno.ENODEV, "the device is gone", out fault);
            StandStill();
        }

        EndResetWhenDone();
        return Done(out fault);
    }

    /// <inheritdoc/>
    public void Resume()
    {
        bool owes;
        using (Hold())
        {
            _isPaused = false;
            owes = TakeConfigNotice();
            foreach (var queue in _queues)
                Run(queue);
        }
        if (owes)
            Volatile.Read(ref _configChanged)?.Invoke();
    }

    /// <inheritdoc/>
    public bool TrySave(StateWriter writer, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(writer);
        lock (_lock)
        {
            if (!_isPaused)
                return Refuse(Errno.EBUSY, "the device does not stand still", out fault);
            Span<byte> device = stackalloc byte[DeviceSectionSize];
            device.Clear();
            BinaryPrimitives.WriteUInt32LittleEndian(device, DeviceId);
            BinaryPrimitives.WriteUInt16LittleEndian(device[4..], (ushort)_queues.Length);
            device[6] = Status;
            BinaryPrimitives.WriteUInt64LittleEndian(device[8..], _driverFeatures.Low);
            BinaryPrimitives.WriteUInt64LittleEndian(device[16..], _driverFeatures.High);
            BinaryPrimitives.WriteUInt32LittleEndian(device[24..], _configGeneration);
            writer.Add(DeviceSection, StateVersion, device);
            var queues = new byte[_queues.Length * QueueSize];
            for (var i = 0; i < _queues.Length; i++)
                Write(_queues[i], queues.AsSpan(i * QueueSize));
            writer.Add(QueuesSection, StateVersion, queues);
            SaveSuspension(writer);
            _admin?.Commands.Save(writer);
            return TrySaveModel(writer, out fault);
        }
    }

    /// <inheritdoc/>
    public bool TryRestore(StateReader reader, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(reader);
        lock (_lock)
        {
            if (!_isPaused)
                return Refuse(Errno.EBUSY, "the device does not stand still", out fault);
            if (!reader.TryTake(DeviceSection, StateVersion, DeviceSectionSize, DeviceSectionSize, out var device, out fault)
                || !reader.TryTake(QueuesSection, StateVersion, QueueSize, _queues.Length * QueueSize, out var queues, out fault)
                || !TryReadSuspension(reader, device.Content.Span[6], out var suspension, out fault)
                || !TryReadAdmin(reader, out var applyAdmin, out fault)
                || !TryReadModel(reader, FeaturesIn(device), out var applyModel, out fault) || !reader.TryFinish(out fault))
                return false;
            if (!TryCheck(device, out var features, out fault) || !TryReadQueues(queues, device.Content.Span[6], features, out var states, out fault))
                return false;
            for (var i = 0; i < states.Length; i++)
                Apply(states[i], _queues[i]);
            _driverFeatures = features;
            _isResetting = false;
            Interlocked.Exchange(ref _status, device.Content.Span[6]);
            Volatile.Write(ref _configGeneration, BinaryPrimitives.ReadUInt32LittleEndian(device.Content.Span[24..]));
            ApplySuspension(suspension);
            applyAdmin();
            applyModel();
            return true;
        }
    }

    private void StandStill()
    {
        _isPaused = true;
        foreach (var queue in _queues)
            queue.Stop();
        TryEndSuspending();
    }

    /// <summary>Adds the sections of a model, which has its own. The queues stand still.</summary>
    /// <param name="writer">Takes them.</param>
    /// <param name="fault">EOPNOTSUPP: something in the model can't be moved.</param>
    protected virtual bool TrySaveModel(StateWriter writer, out Fault fault) => Done(out fault);

    /// <summary>Takes and checks the sections of a model, and changes nothing yet.</summary>
    /// <param name="reader">The sections; not trusted.</param>
    /// <param name="driverFeatures">What the state says that the driver took; they are checked behind this.</param>
    /// <param name="apply">Takes over what was read; called when all else of the state is found right, and not at all otherwise. It can't fail. What differs
    /// from what the driver knows it tells by <see cref="ChangeConfig"/>, which reaches the driver when the device goes on.</param>
    /// <param name="fault">EINVAL: the section and version that do not fit, and why.</param>
    protected virtual bool TryReadModel(StateReader reader, VirtioFeatures driverFeatures, out Action apply, out Fault fault)
    {
        apply = static () => { };
        return Done(out fault);
    }

    private bool TryReadAdmin(StateReader reader, out Action apply, out Fault fault)
    {
        apply = static () => { };
        return _admin is null ? Done(out fault) : _admin.Commands.TryRead(reader, out apply, out fault);
    }

    private static void Write(QueueRunner queue, Span<byte> to)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(to, queue.DescriptorArea.Value);
        BinaryPrimitives.WriteUInt64LittleEndian(to[8..], queue.DriverArea.Value);
        BinaryPrimitives.WriteUInt64LittleEndian(to[16..], queue.DeviceArea.Value);
        BinaryPrimitives.WriteUInt16LittleEndian(to[24..], (ushort)queue.Size);
        var flags = (queue.Ready ? ReadyFlag : 0) | (queue.IsBroken ? BrokenFlag : 0) | (queue.State.IsPacked ? PackedFlag : 0);
        BinaryPrimitives.WriteUInt16LittleEndian(to[26..], (ushort)flags);
        BinaryPrimitives.WriteUInt32LittleEndian(to[28..], queue.State.Encode());
    }

    private static VirtioFeatures FeaturesIn(in StateSection section) => new(
        BinaryPrimitives.ReadUInt64LittleEndian(section.Content.Span[8..]), BinaryPrimitives.ReadUInt64LittleEndian(section.Content.Span[16..]));

    private bool TryCheck(in StateSection section, out VirtioFeatures features, out Fault fault)
    {
        var from = section.Content.Span;
        features = FeaturesIn(section);
        var type = BinaryPrimitives.ReadUInt32LittleEndian(from);
        var status = from[6];
        if (type != DeviceId)
            return Refuse(section, $"is of a device of type {type}; this one is of type {DeviceId}", out fault);
        if (BinaryPrimitives.ReadUInt16LittleEndian(from[4..]) != _queues.Length)
            return Refuse(section, $"is of a device with {BinaryPrimitives.ReadUInt16LittleEndian(from[4..])} queues; this one has {_queues.Length}", out fault);
        if (!features.IsWithin(DeviceFeatures))
            return Refuse(section, $"has features {features & ~DeviceFeatures} that this device does not offer", out fault);
        var hasFeatures = (status & VirtioStatus.FEATURES_OK) != 0;
        var hasRun = status & (VirtioStatus.DRIVER_OK | VirtioStatus.SUSPEND);
        if ((status & ~KnownStatus) != 0 || from[7] != 0 || (hasRun != 0 && !hasFeatures) || hasRun == (VirtioStatus.DRIVER_OK | VirtioStatus.SUSPEND))
            return Refuse(section, $"has a status 0x{status:x} that no driver can set", out fault);
        return !hasFeatures || TryAcceptFeatures(features, out fault) ? Done(out fault) : false;
    }

    private bool TryReadQueues(in StateSection section, byte status, VirtioFeatures features, out QueueSetup[] states, out Fault fault)
    {
        states = new QueueSetup[_queues.Length];
        var from = section.Content.Span;
        if (from.Length != states.Length * QueueSize)
            return Refuse(section, $"has {from.Length} bytes for {states.Length} queues", out fault);
        for (var i = 0; i < states.Length; i++, from = from[QueueSize..])
        {
            var size = BinaryPrimitives.ReadUInt16LittleEndian(from[24..]);
            var flags = BinaryPrimitives.ReadUInt16LittleEndian(from[26..]);
            // A queue that is not ready may have been set up for features that were given up since.
            var isReady = (flags & ReadyFlag) != 0;
            if (size == 0 || size > MaxQueueSize || (flags & ~(ReadyFlag | BrokenFlag | PackedFlag)) != 0
                || (isReady && (!IsQueueSize(size, features) || (status & VirtioStatus.FEATURES_OK) == 0))
                || (isReady && (flags & PackedFlag) != 0 && !features.Has(VirtioFeatures.VIRTIO_F_RING_PACKED))
                || !QueueState.TryDecode(BinaryPrimitives.ReadUInt32LittleEndian(from[28..]), (flags & PackedFlag) != 0, out var state, out _))
                return Refuse(section, $"has a queue {i} that such a device can't have", out fault);
            states[i] = new QueueSetup(
                new Iova(BinaryPrimitives.ReadUInt64LittleEndian(from)),
                new Iova(BinaryPrimitives.ReadUInt64LittleEndian(from[8..])),
                new Iova(BinaryPrimitives.ReadUInt64LittleEndian(from[16..])),
                size, isReady, (flags & BrokenFlag) != 0, state);
        }
        return Done(out fault);
    }

    private static void Apply(in QueueSetup setup, QueueRunner queue)
    {
        queue.DescriptorArea = setup.DescriptorArea;
        queue.DriverArea = setup.DriverArea;
        queue.DeviceArea = setup.DeviceArea;
        queue.Size = setup.Size;
        queue.Ready = setup.IsReady;
        queue.IsBroken = setup.IsBroken;
        queue.State = setup.State;
    }

    private static bool Refuse(in StateSection section, string why, out Fault fault) =>
        Refuse(Errno.EINVAL, $"section '{section.Name}', version {section.Version}, {why}", out fault);

    private readonly record struct QueueSetup(
        Iova DescriptorArea, Iova DriverArea, Iova DeviceArea, int Size, bool IsReady, bool IsBroken, QueueState State);
}
