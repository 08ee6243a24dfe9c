using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>
/// A guest with one virtio function in a slot: its memory, its driver, and what it knows of its device. Whatever the device does to it that its own steps do
/// not explain is a failure of the simulation.
/// </summary>
internal abstract partial class SimGuest : IPciPort
{
    public const ulong SliceSize = 0xA000;
    protected const byte Running = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    private const ulong Base = 0x1_0000_0000;
    private const ulong MessageAddress = 0xFEE00000;
    private const ulong RingBytes = 0x400;
    private const ulong DataAt = 0x2000;
    private const ulong SlotBytes = 0x500;
    private const ulong TableAt = 0x20;
    protected const int ContentAt = 0x80;

    private readonly ulong _slice;
    private readonly IommuGroup _group = new(1);
    private readonly IoAddressSpace _space = new();
    private readonly byte[] _frozen = new byte[SliceSize];
    private bool _isFrozen;
    // Nothing may call the guest; no message may.
    private bool _isSilent = true;
    private bool _isMute = true;
    private bool _hasMessages;

    protected SimGuest(VirtioSimulation sim, int number, string name, int queues)
    {
        Sim = sim;
        Number = number;
        Name = name;
        _slice = (ulong)number * SliceSize;
        Queues = [.. Enumerable.Range(0, queues).Select(static i => new SimQueue(i))];
        Dma = NewPort();
        Map(DataAt, SliceSize - DataAt);
        Map(0, DataAt);
        Faults = sim.Sink.Open(name);
    }

    public string Name { get; }

    public int Number { get; }

    public DmaPort Dma { get; private set; }

    public FaultSource Faults { get; }

    public SimQueue[] Queues { get; }

    public PciFunction? Function { get; private set; }

    public VirtioDevice? Device { get; private set; }

    /// <summary>Whether it is one that its physical function can take away.</summary>
    public bool IsVirtual { get; init; }

    public bool IsThere => Function is { IsPresent: true };

    public bool IsPlugged { get; private set; }

    public bool IsUp { get; private set; }

    public bool IsPaused { get; private set; }

    public bool IsMaster { get; private set; }

    public bool HasRings { get; private set; } = true;

    public bool HasData { get; private set; } = true;

    /// <summary>The guest took memory away that buffers in the ring name: its device may find that.</summary>
    public bool MayBreak { get; private set; }

    public bool Line { get; private set; }

    public VirtioFeatures Features { get; private set; }

    protected VirtioSimulation Sim { get; }

    protected VirtioPciAccess Registers { get; private set; } = null!;

    protected VirtioRegisterTransport Driver { get; private set; } = null!;

    private bool IsServed => IsUp && IsPlugged && !IsPaused && IsThere;

    /// <summary>Nothing of the guest may change: no device that is as it is now does DMA.</summary>
    private bool IsQuiet => !(IsServed && IsMaster && HasRings);

    /// <summary>A function of its own comes into the slot.</summary>
    public void Insert()
    {
        var (function, device) = Make();
        Insert(function, device);
    }

    /// <summary>A function comes into the slot, as it is after power-on.</summary>
    public void Insert(PciFunction function, VirtioDevice device)
    {
        (Function, Device) = (function, device);
        _hasMessages = false;
        TakeOver();
        Plug();
    }

    public void Plug()
    {
        Note("plug");
        IsPlugged = true;
        Melt();
        // What the line stood at, it stands at again.
        _isSilent &= !IsUp;
        Function!.Plug(this);
        Settle();
    }

    public void Unplug()
    {
        Note("unplug");
        Function!.Unplug();
        IsPlugged = false;
        Disarm();
        Require(!Line, "its line is asserted, and it is in no slot");
        Settle();
    }

    /// <summary>Brings the device up, as a driver that finds it.</summary>
    public void BringUp()
    {
        Note("up");
        Verify();
        SetCommand(true);
        if (!_hasMessages && Sim.Next(4) > 0)
            EnableMessages();
        Driver = new VirtioRegisterTransport(Registers);
        Require(Driver.TryReset(out _), "it does not come out of its reset");
        Require(Driver.TrySetStatus(ACKNOWLEDGE, out _) && Driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _), "the driver is refused");
        Features = Driver.DeviceFeatures & ~Without();
        Require(Driver.TrySetDriverFeatures(Features, out var fault) && Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out fault), $"features {Features} are refused: {fault.Message}");
        foreach (var queue in Queues)
        {
            queue.Clear();
            Enable(queue);
        }

        if (_hasMessages)
            Registers.WriteUInt16(VirtioCommonConfig.config_msix_vector, (ushort)Sim.Next(Queues.Length + 1));
        MayBreak = false;
        IsUp = true;
        Melt();
        Require(Driver.TrySetStatus(Running, out fault), $"DRIVER_OK is refused: {fault.Message}");
        Began();
        Settle();
    }

    /// <summary>Sets a queue up that is not enabled.</summary>
    public void Enable(SimQueue queue)
    {
        Verify();
        Driver.Select(queue.Index);
        queue.Vector = _hasMessages ? (ushort)Sim.Next(Queues.Length + 1) : VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR;
        Require(Driver.TrySetQueueVector(queue.Vector), $"queue {queue.Index} can't have vector {queue.Vector}");
        var (eventIndex, indirect, inOrder) =
            (Features.Has(VirtioFeatures.VIRTIO_F_EVENT_IDX), Features.Has(VirtioFeatures.VIRTIO_F_INDIRECT_DESC), Features.Has(VirtioFeatures.VIRTIO_F_IN_ORDER));
        var at = _slice + ((ulong)queue.Index * RingBytes);
        Sim.Memory.Write(at, new byte[RingBytes]);
        // Memory wraps, so that addresses begin where they are to.
        var start = unchecked(Base - _slice);
        queue.Ring = RingForm.NewDriver(Features.Has(VirtioFeatures.VIRTIO_F_RING_PACKED), Sim.Memory, start, SimQueue.Size, eventIndex, indirect, inOrder, at);
        var layout = queue.Ring.Layout;
        Driver.SetQueueSize(layout.Size);
        Driver.SetQueueAddress(layout.DescriptorArea, layout.DriverArea, layout.DeviceArea);
        Wrote();
        Require(Driver.TryEnable(), $"queue {queue.Index} can't be enabled");
        Settle();
    }

    /// <summary>Resets the device by its status.</summary>
    public void ResetStatus()
    {
        Note("reset");
        Require(new VirtioRegisterTransport(Registers).TryReset(out _), "it does not come out of its reset");
        Ended();
        Require(!Line, "its line is asserted after a reset");
        Settle();
    }

    /// <summary>Resets the function, as a VMM does between two guests or a guest by FLR.</summary>
    public void ResetFunction()
    {
        Note("flr");
        if (Sim.Next(2) == 0)
            Function!.Reset();
        else
            Function!.SetConfig(Function!.Capability(PciCapabilityId.PCI_CAP_ID_EXP) + PciExpress.PCI_EXP_DEVCTL, PciExpress.PCI_EXP_DEVCTL_BCR_FLR, 2);
        // The bus sees the command register.
        Dma.IsBusMaster = IsMaster = false;
        _hasMessages = false;
        Require(Driver is null || !IsThere || Driver.Status == 0, "it has a status after a reset");
        Ended();
        Restarted();
        Require(!Line, "its line is asserted after a reset");
        Settle();
    }

    /// <summary>Resets one queue, and sets it up anew.</summary>
    public void ResetQueue(SimQueue queue)
    {
        if (!Features.Has(VirtioFeatures.VIRTIO_F_RING_RESET) || queue.Ring is null || IsQuiet || !HasData)
            return;
        Note("reset of a queue", queue.Index);
        Driver.Select(queue.Index);
        Registers.WriteUInt16(VirtioCommonConfig.queue_reset, 1);
        Require(!Driver.IsEnabled && Registers.ReadUInt16(VirtioCommonConfig.queue_reset) == 0, $"queue {queue.Index} is enabled after its reset");
        End(queue);
        if (Sim.Next(2) == 0)
            Sim.Turns(3);
        Enable(queue);
        QueueBegan(queue);
        Settle();
    }

    public void SetMaster(bool on)
    {
        Note(on ? "master" : "no master");
        if (on && !IsMaster)
        {
            IsMaster = true;
            Melt();
            IsMaster = false;
        }

        SetCommand(on);
        Settle();
    }

    public void Pause()
    {
        Note("stop");
        Require(((IMovableState)Function!).TryPause(out var fault), $"it can't stand still: {fault.Message}");
        IsPaused = true;
        Settle();
    }

    public void Resume()
    {
        Note("cont");
        IsPaused = false;
        Melt();
        ((IMovableState)Function!).Resume();
        Settle();
    }

    /// <summary>Takes memory away, all of it or that of buffers, or gives it back.</summary>
    public void SwitchMemory()
    {
        if (!HasData)
        {
            Note("map");
            Map(DataAt, SliceSize - DataAt);
            HasData = true;
            if (!HasRings)
            {
                HasRings = true;
                Melt();
                Map(0, DataAt);
            }
        }
        else
        {
            var isAll = Sim.Next(3) > 0;
            Note(isAll ? "unmap" : "unmap of buffers");
            if (isAll)
            {
                Unmap(0, DataAt);
                HasRings = false;
            }
            else
            {
                // What is in flight would be waited for, and nobody is there to end it meanwhile.
                Drain();
            }

            Unmap(DataAt, SliceSize - DataAt);
            HasData = false;
            MayBreak |= IsUp && HasRings;
        }

        Settle();
    }

    /// <summary>The state goes to another function, or to this one after a reset.</summary>
    public void Move()
    {
        Note("move");
        var wasPaused = IsPaused;
        if (!wasPaused)
            Pause();
        if (IsUp)
            Reap();
        var writer = new StateWriter();
        Require(((IMovableState)Function!).TrySave(writer, out var fault), $"its state can't be saved: {fault.Message}");
        var (isPlugged, master) = (IsPlugged, IsMaster);
        Left();
        if (IsVirtual)
        {
            Function.Reset();
        }
        else
        {
            Function.Dispose();
            IsPlugged = false;
            Require(!Line, "its line is asserted, and it is gone");
            CheckCounters();
            Dma.LeaveGroup();
            Dma = NewPort();
            (Function, Device) = Make();
            TakeOver();
            if (isPlugged)
                Plug();
        }

        Dma.IsBusMaster = IsMaster = false;
        Restarted();
        Require(((IMovableState)Function).TryPause(out _), "it can't stand still");
        Require(StateReader.TryRead(writer.ToArray(), 1 << 20, out var reader, out fault) && ((IMovableState)Function).TryRestore(reader, out fault), $"its state is not taken: {fault.Message}");
        // The level of the line is state, and shows as soon as it may.
        _isSilent &= !(IsUp && IsPlugged);
        SetCommand(master);
        if (_hasMessages)
            EnableMessages();
        Driver = new VirtioRegisterTransport(Registers);
        Require(!IsUp || (Driver.Status & ~DEVICE_NEEDS_RESET) == Running, $"it has status {Driver.Status} after it moved");
        Settle();
        if (!wasPaused)
            Resume();
    }

    /// <summary>The function went with its physical one's VF Enable.</summary>
    public void Vanished()
    {
        Note("gone");
        Require(!Function!.IsPresent, "it is there, and VF Enable is not");
        Require(Driver is null || Driver.Status == 0xFF, "it has registers, and VF Enable is not");
        IsPlugged = false;
        Require(!Line, "its line is asserted, and it is gone");
        Ended();
        Restarted();
        CheckCounters();
        Settle();
        Function = null;
        Device = null;
        IsPaused = IsMaster = false;
        Dma.LeaveGroup();
        Dma = NewPort();
    }

    /// <summary>Its function goes, and the guest.</summary>
    public void Close()
    {
        if (Function is not null)
        {
            Function.Dispose();
            IsPlugged = false;
            Ended();
            CheckCounters();
            Settle();
        }

        Verify();
        _group.ReleaseUser(this);
        _space.Dispose();
    }

    public void SendMessage(ulong address, uint data)
    {
        Note("message", (int)(data & 0xFF));
        Require(!_isMute, "it sends a message, and may not");
        Require(address == MessageAddress && data >> 8 == (uint)Number, $"it sends the message {data:x}, which is not its own");
        foreach (var queue in Queues)
            queue.IsCalled |= queue.Vector == (data & 0xFF);
    }

    public void SetInterruptLine(bool asserted)
    {
        Note(asserted ? "line" : "no line");
        Require(asserted != Line, "it sets its line to the level that it has");
        Require(!asserted || !_isSilent, "it asserts its line, and may not");
        Line = asserted;
        foreach (var queue in Queues)
            queue.IsCalled |= asserted;
    }

    public override string ToString() => Name;

    protected void Note(string what, int number = -1) => Sim.Tell(what, Name, number);

    protected void Require(bool holds, string what)
    {
        if (!holds)
            Sim.Require(false, $"{Name}: {what}");
    }

    protected void Require(bool holds, [InterpolatedStringHandlerArgument(nameof(holds))] ref FailureText what)
    {
        if (!holds)
            Require(false, what.Take());
    }

    private void TakeOver()
    {
        Registers = new VirtioPciAccess(Function!);
        Driver = null!;
        foreach (var queue in Queues)
            queue.Taken = 0;
        Made();
    }

    private DmaPort NewPort()
    {
        var port = new DmaPort(Name, _group);
        if (!_group.TryClaimForUser(this, Name, out _) || !_group.TryAttach(this, port, _space, out var fault))
            throw new InvalidOperationException("The guest gets no memory.");
        return port;
    }

    private void SetCommand(bool master)
    {
        const ushort Decode = PciCommand.PCI_COMMAND_IO | PciCommand.PCI_COMMAND_MEMORY;
        Function!.SetConfig(PciHeader.PCI_COMMAND, Decode | (master ? (uint)PciCommand.PCI_COMMAND_MASTER : 0), 2);
        // A message that was due without it is lost.
        if (!IsMaster || !master)
            Disarm();
        Dma.IsBusMaster = IsMaster = master;
    }

    private void EnableMessages()
    {
        Span<byte> entry = stackalloc byte[16];
        entry.Clear();
        for (var vector = 0; vector <= Queues.Length; vector++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(entry, MessageAddress);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[8..], ((uint)Number << 8) + (uint)vector);
            Function!.WriteBar(1, (ulong)vector * 16, entry);
        }

        Function!.SetConfig(Function!.Capability(PciCapabilityId.PCI_CAP_ID_MSIX) + PciMsix.PCI_MSIX_FLAGS, 0x8000, 2);
        _hasMessages = true;
    }

    private void Map(ulong from, ulong size)
    {
        if (!_space.TryMap(new Iova(Base + from), size, Sim.Memory, _slice + from, DmaAccess.ReadWrite, out var fault))
            throw new InvalidOperationException(fault.Message);
    }

    private void Unmap(ulong from, ulong size)
    {
        if (!_space.TryUnmap(new IovaRange(new Iova(Base + from), size), out _, out var fault))
            throw new InvalidOperationException(fault.Message);
    }
}
