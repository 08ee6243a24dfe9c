using System.Buffers.Binary;
using System.Collections.Concurrent;
using Virtbus.Hardware.Adapter;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Testing;

/// <summary>
/// A driver of one function of an adapter, in a slot of its own, with no bus: it drives the function by registers, memory and interrupts, as a program in
/// a guest's user space would (docs/adapter-registers.md). It may do what a driver must not. One thread at a time; what it waits for ends
/// after <see cref="Deadline.Limit"/> with a TimeoutException.
/// </summary>
public sealed class AdapterDriver : IDisposable, IPciPort
{
    /// <summary>Where the function finds the driver's memory.</summary>
    public const ulong Base = 0x100000;

    /// <summary>Bytes of it.</summary>
    public const ulong Size = 0x100000;

    /// <summary>Where the commands are; 4 KiB.</summary>
    public const ulong Commands = Base;

    /// <summary>Where the events are; 4 KiB.</summary>
    public const ulong Events = Base + 0x1000;

    /// <summary>From here on it is the caller's; queue sets begin here (<see cref="CreateQueues"/>).</summary>
    public const ulong Free = Base + 0x10000;

    /// <summary>Log2 of the number of commands.</summary>
    public const int CommandLog = 4;

    /// <summary>Log2 of the number of events.</summary>
    public const int EventLog = 5;

    private const int CommandSize = 64;
    private const int EventSize = 32;
    private const int Vectors = 8;

    private readonly ConcurrentDictionary<uint, SemaphoreSlim> _interrupts = new();
    private readonly IommuGroup _group = new(0);
    private readonly IoAddressSpace _space = new();
    private uint _producer;
    private uint _consumer;

    /// <summary>Plugs a function in, makes it bus master and sets its vectors up; it is not enabled.</summary>
    /// <param name="function">The function; it stays the caller's.</param>
    /// <param name="memory">Memory of <see cref="Size"/> bytes, for two functions that share it; its own when left out.</param>
    /// <exception cref="VirtbusException">ENOMEM: the host has no memory.</exception>
    public AdapterDriver(PciFunction function, HostMemory? memory = null)
    {
        ArgumentNullException.ThrowIfNull(function);
        Function = function;
        if (memory is null)
        {
            Memory = HostMemory.Allocate("adapter-driver", Size, out var file);
            file.Dispose();
        }
        else
            Memory = memory.Acquire();
        Dma = new DmaPort("adapter-driver", _group);
        Require(_space.TryMap(new Iova(Base), Size, Memory, 0, DmaAccess.ReadWrite, out var fault), fault);
        TakeOwnership();
        function.Plug(this);
        SetMaster(true);
        EnableInterrupts();
    }

    /// <summary>The function.</summary>
    public PciFunction Function { get; }

    /// <inheritdoc/>
    public DmaPort Dma { get; }

    /// <summary>The memory, from its first byte.</summary>
    public HostMemory Memory { get; }

    /// <summary>What the function's DMA reaches: the memory at <see cref="Base"/>, and what the caller maps.</summary>
    public IoAddressSpace Space => _space;

    internal AdapterLayout Layout => Read32At(0) == (uint)AdapterLayout.Merlin.Identity ? AdapterLayout.Merlin : AdapterLayout.Harrier;

    /// <summary>Makes an adapter to drive.</summary>
    /// <param name="merlin">The make: merlin, or harrier.</param>
    /// <param name="vfs">How many virtual functions can be enabled.</param>
    /// <param name="nets">Network ports.</param>
    /// <param name="vdpas">vDPA parts.</param>
    public static AdapterFunction Make(bool merlin, int vfs = 0, int nets = 1, int vdpas = 0)
    {
        var engine = new AdapterEngine("adapter", 0x020000000010, nets, vdpas);
        return merlin ? AdapterFunction.CreateMerlin(engine, vfs) : AdapterFunction.CreateHarrier(engine, vfs);
    }

    /// <summary>Sets how many virtual functions of a physical one are there.</summary>
    /// <param name="function">The physical function.</param>
    /// <param name="count">How many; 0 takes them away.</param>
    /// <returns>Those that are there now, by number.</returns>
    public static IReadOnlyList<PciFunction> EnableVirtual(AdapterFunction function, int count)
    {
        ArgumentNullException.ThrowIfNull(function);
        var sriov = function.Config.Layout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);
        function.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [0, 0]);
        function.WriteConfig(sriov + PciSriov.PCI_SRIOV_NUM_VF, [(byte)count, (byte)(count >> 8)]);
        function.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [(byte)(count == 0 ? 0 : 9), 0]);
        return [.. function.VirtualFunctions.Cast<PciFunction>()];
    }

    /// <inheritdoc/>
    public void SendMessage(ulong address, uint data) => Semaphore(data).Release();

    /// <inheritdoc/>
    public void SetInterruptLine(bool asserted) => throw new InvalidOperationException("An adapter has no pin.");

    /// <summary>Unplugs the function.</summary>
    public void Dispose()
    {
        Function.Unplug();
        _group.ReleaseUser(this);
        _space.Dispose();
        Memory.Dispose();
        foreach (var semaphore in _interrupts.Values)
            semaphore.Dispose();
    }

    /// <summary>Reads a register, as wide as the make has it.</summary>
    /// <param name="register">The register.</param>
    /// <exception cref="ArgumentOutOfRangeException">The make has no such register.</exception>
    public ulong Read(AdapterRegister register)
    {
        var (offset, wide) = Find(register);
        return wide ? Read32At(offset) | ((ulong)Read32At(offset + 4) << 32) : Read32At(offset);
    }

    /// <summary>Writes a register, as wide as the make has it.</summary>
    /// <param name="register">The register.</param>
    /// <param name="value">The value.</param>
    /// <exception cref="ArgumentOutOfRangeException">The make has no such register.</exception>
    public void Write(AdapterRegister register, ulong value)
    {
        var (offset, wide) = Find(register);
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        Function.WriteBar(0, offset, bytes[..(wide ? 8 : 4)]);
    }

    /// <summary>Waits until some bits of a register have a value.</summary>
    /// <param name="register">The register.</param>
    /// <param name="mask">The bits.</param>
    /// <param name="wanted">The value.</param>
    public void WaitFor(AdapterRegister register, ulong mask, ulong wanted) =>
        Deadline.Until(() => (Read(register) & mask) == wanted, $"0x{wanted:x} in 0x{mask:x} of {register}");

    /// <summary>Enables the function, with rings of 16 commands and 32 events.</summary>
    public void Enable()
    {
        Write(AdapterRegister.CommandBase, Commands);
        Write(AdapterRegister.CommandSize, CommandLog);
        Write(AdapterRegister.EventBase, Events);
        Write(AdapterRegister.EventSize, EventLog);
        Write(AdapterRegister.Control, AdapterControl.Enable);
        WaitFor(AdapterRegister.Status, AdapterStatus.Enabled, AdapterStatus.Enabled);
        (_producer, _consumer) = (0, 0);
    }

    /// <summary>Disables the function, and empties the rings.</summary>
    public void Disable()
    {
        Write(AdapterRegister.Control, 0);
        WaitFor(AdapterRegister.Status, AdapterStatus.Enabled | AdapterStatus.Error, 0);
        Fill(Commands, 0x2000);
    }

    /// <summary>Rings the doorbell of the commands.</summary>
    /// <param name="producer">How many were given so far.</param>
    public void RingCommands(uint producer) => Ring(Layout.CommandDoorbell, producer);

    /// <summary>Rings the doorbell of the events.</summary>
    /// <param name="consumer">How many were taken so far.</param>
    public void RingEvents(uint consumer) => Ring(Layout.EventDoorbell, consumer);

    /// <summary>Rings the doorbell of a queue set's transmit ring.</summary>
    /// <param name="set">The queue set.</param>
    public void RingTransmit(int set) => Ring(Layout.TransmitDoorbell + (set * Layout.TransmitStride), 0);

    /// <summary>Where that doorbell is.</summary>
    /// <param name="set">The queue set.</param>
    public PciDoorbell TransmitDoorbell(int set) => new(2, (ulong)(Layout.TransmitDoorbell + (set * Layout.TransmitStride)), 4);

    /// <summary>Puts a command into the ring and rings, without waiting.</summary>
    /// <param name="command">Its 64 bytes.</param>
    public void Post(ReadOnlySpan<byte> command)
    {
        WriteMemory(Commands + ((_producer % (1u << CommandLog)) * CommandSize), command);
        _producer++;
        RingCommands(_producer);
    }

    /// <summary>Puts a command into the ring and rings, without waiting. Its tag is its number.</summary>
    /// <param name="opcode">What to do.</param>
    /// <param name="index">With what.</param>
    /// <param name="arguments">At most six.</param>
    public void Post(AdapterOpcode opcode, uint index = 0, params ReadOnlySpan<ulong> arguments)
    {
        var command = new byte[CommandSize];
        BinaryPrimitives.WriteUInt16LittleEndian(command, (ushort)opcode);
        BinaryPrimitives.WriteUInt32LittleEndian(command.AsSpan(4), _producer);
        BinaryPrimitives.WriteUInt32LittleEndian(command.AsSpan(8), index);
        for (var i = 0; i < arguments.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(command.AsSpan(16 + (8 * i)), arguments[i]);
        Post(command);
    }

    /// <summary>The next event, waited for and taken.</summary>
    public AdapterEvent TakeEvent()
    {
        var at = Events + ((_consumer % (1u << EventLog)) * EventSize);
        var phase = ~(_consumer >> EventLog) & 1;
        Deadline.Until(() => (Word(at + 28) & 1) == phase, $"event {_consumer} of the adapter");
        var bytes = ReadMemory(at, EventSize);
        _consumer++;
        RingEvents(_consumer);
        return new AdapterEvent(
            (AdapterEventType)BinaryPrimitives.ReadUInt16LittleEndian(bytes),
            (Errno)BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(2)),
            BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(4)),
            BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(8)),
            BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(16)));
    }

    /// <summary>Executes a command and waits for its answer.</summary>
    /// <param name="opcode">What to do.</param>
    /// <param name="index">With what.</param>
    /// <param name="arguments">At most six.</param>
    /// <exception cref="ExpectationException">Another event came.</exception>
    public AdapterEvent Do(AdapterOpcode opcode, uint index = 0, params ReadOnlySpan<ulong> arguments)
    {
        var tag = _producer;
        Post(opcode, index, arguments);
        var answer = TakeEvent();
        return (answer.Type, answer.Tag) == (AdapterEventType.CommandDone, tag)
            ? answer
            : throw new ExpectationException($"The answer to command {tag} was expected, and {answer} came.");
    }

    /// <summary>Makes a queue set of 16 descriptors each way with vector set + 1; its memory begins at <see cref="Free"/> + set * 0x20000.</summary>
    /// <param name="set">The number that it gets: the lowest that is free.</param>
    /// <exception cref="ExpectationException">The adapter refused, or gave another number.</exception>
    public AdapterQueues CreateQueues(int set)
    {
        var queues = new AdapterQueues(this, Free + ((ulong)set * 0x20000), set);
        Fill(queues.Start, 0x1000);
        var answer = Do(AdapterOpcode.CreateQueueSet, 0, queues.Arguments);
        return (answer.Status, answer.First) == (Errno.None, (ulong)set)
            ? queues
            : throw new ExpectationException($"Queue set {set} was expected, and {answer} came.");
    }

    /// <summary>Lets a PASID of the function reach the driver's memory too.</summary>
    /// <param name="pasid">The PASID.</param>
    public bool AttachPasid(uint pasid) => _group.TryAttach(this, Dma.ForPasid(pasid), _space, out _);

    /// <summary>Takes that back.</summary>
    /// <param name="pasid">The PASID.</param>
    public bool DetachPasid(uint pasid) => _group.TryAttach(this, Dma.ForPasid(pasid), null, out _);

    /// <summary>Gives the DMA of the function back, and takes it again.</summary>
    public void ChangeOwner()
    {
        _group.ReleaseUser(this);
        TakeOwnership();
    }

    /// <summary>Waits for a message of a vector, and takes it.</summary>
    /// <param name="vector">The vector.</param>
    public void WaitInterrupt(uint vector)
    {
        if (!Semaphore(vector).Wait(Deadline.Limit))
            throw new TimeoutException($"Vector {vector} of the adapter did not come within {Deadline.Limit.TotalSeconds:0} s.");
    }

    /// <summary>How many messages of a vector came that nobody waited for.</summary>
    /// <param name="vector">The vector.</param>
    public int Interrupts(uint vector) => Semaphore(vector).CurrentCount;

    /// <summary>Writes the driver's memory.</summary>
    /// <param name="address">Where, as the function sees it.</param>
    /// <param name="bytes">What.</param>
    public void WriteMemory(ulong address, ReadOnlySpan<byte> bytes) => Memory.Write(address - Base, bytes);

    /// <summary>Reads the driver's memory.</summary>
    /// <param name="address">Where, as the function sees it.</param>
    /// <param name="length">How many bytes.</param>
    public byte[] ReadMemory(ulong address, int length)
    {
        var bytes = new byte[length];
        Memory.Read(address - Base, bytes);
        return bytes;
    }

    /// <summary>Writes zeros.</summary>
    /// <param name="address">Where, as the function sees it.</param>
    /// <param name="length">How many.</param>
    public void Fill(ulong address, int length) => WriteMemory(address, new byte[length]);

    /// <summary>Reads 32 bits of memory.</summary>
    /// <param name="address">Where, as the function sees it.</param>
    public uint Word(ulong address) => BinaryPrimitives.ReadUInt32LittleEndian(ReadMemory(address, 4));

    /// <summary>Writes 32 bits of memory.</summary>
    /// <param name="address">Where, as the function sees it.</param>
    /// <param name="value">The value.</param>
    public void SetWord(ulong address, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        WriteMemory(address, bytes);
    }

    /// <summary>Lets the function be bus master, or not.</summary>
    /// <param name="enabled">Whether.</param>
    public void SetMaster(bool enabled)
    {
        Span<byte> command = stackalloc byte[2];
        Function.ReadConfig(PciHeader.PCI_COMMAND, command);
        command[0] = (byte)(enabled ? command[0] | 4 : command[0] & ~4);
        Dma.IsBusMaster = enabled;
        Function.WriteConfig(PciHeader.PCI_COMMAND, command);
    }

    /// <summary>Sets MSI-X up: the message of vector n has data n.</summary>
    public void EnableInterrupts()
    {
        var entry = new byte[16];
        for (var i = 0; i < Vectors; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(entry, 0xFEE00000);
            BinaryPrimitives.WriteInt32LittleEndian(entry.AsSpan(8), i);
            Function.WriteBar(4, (ulong)(i * 16), entry);
        }
        Function.WriteConfig(Function.Config.Layout.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX) + 2, [0, 0x80]);
    }

    /// <summary>Function-level reset, by its bit in the PCI Express capability.</summary>
    public void ResetFunction() => Function.WriteConfig(Function.Config.Layout.FindCapability(PciCapabilityId.PCI_CAP_ID_EXP) + 8, [0, 0x80]);

    private void TakeOwnership()
    {
        Require(_group.TryClaimForUser(this, "adapter-driver", out var fault), fault);
        Require(_group.TryAttach(this, Dma, _space, out fault), fault);
    }

    private static void Require(bool isDone, Fault fault)
    {
        if (!isDone)
            throw new VirtbusException(fault.Errno, $"The adapter's driver has no memory: {fault.Message}.");
    }

    private SemaphoreSlim Semaphore(uint vector) => _interrupts.GetOrAdd(vector, static _ => new SemaphoreSlim(0));

    private void Ring(int offset, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        Function.WriteBar(2, (ulong)offset, bytes);
    }

    private uint Read32At(ulong offset)
    {
        Span<byte> bytes = stackalloc byte[4];
        Function.ReadBar(0, offset, bytes);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    private (ulong Offset, bool Wide) Find(AdapterRegister register)
    {
        for (var word = 0ul; word < 0x400; word++)
        {
            if (Layout.At(word) == (register, false))
                return (word * 4, Layout.At(word + 1) == (register, true));
        }
        throw new ArgumentOutOfRangeException(nameof(register), register, $"{Layout.Model} has no such register.");
    }
}
