using System.Buffers.Binary;
using System.Collections.Concurrent;
using Virtbus.Hardware.Adapter;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Xunit;

namespace Virtbus.Tests;

/// <summary>
/// A function of an adapter in a slot of its own, with no bus and no driver: a test drives it by registers, memory and interrupts, as a program
/// in a guest's user space would. One MiB of memory at <see cref="Base"/>.
/// </summary>
internal sealed class AdapterRig : IDisposable, IPciPort
{
    public const ulong Base = 0x100000;
    public const ulong Size = 0x100000;

    // The rig's own: commands, events, and index blocks and rings of two queue sets behind; tests have the rest.
    public const ulong Commands = Base;
    public const ulong Events = Base + 0x1000;
    public const ulong Free = Base + 0x10000;
    public const int CommandLog = 4;
    public const int EventLog = 5;

    private readonly ConcurrentDictionary<uint, SemaphoreSlim> _interrupts = new();
    private readonly IommuGroup _group = new(0);
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private uint _producer;
    private uint _consumer;

    public AdapterRig(PciFunction function, HostMemory? memory = null)
    {
        Function = function;
        if (memory is null)
        {
            _memory = HostMemory.Allocate("virtbus-test", Size, out var file);
            file.Dispose();
        }
        else
            _memory = memory.Acquire();
        Assert.True(_space.TryMap(new Iova(Base), Size, _memory, 0, DmaAccess.ReadWrite, out _));
        Dma = new DmaPort("rig", _group);
        Assert.True(_group.TryClaimForUser(this, "rig", out _));
        Assert.True(_group.TryAttach(this, Dma, _space, out _));
        function.Plug(this);
        SetMaster(true);
        EnableInterrupts();
    }

    public PciFunction Function { get; }

    public DmaPort Dma { get; }

    public HostMemory Memory => _memory;

    public IoAddressSpace Space => _space;

    internal AdapterLayout Layout => Read32At(0) == (uint)AdapterLayout.Merlin.Identity ? AdapterLayout.Merlin : AdapterLayout.Harrier;

    public static AdapterFunction Make(bool merlin, int vfs = 0, int nets = 1, int vdpas = 0)
    {
        var engine = new AdapterEngine("rig", 0x020000000010, nets, vdpas);
        return merlin ? AdapterFunction.CreateMerlin(engine, vfs) : AdapterFunction.CreateHarrier(engine, vfs);
    }

    public void SendMessage(ulong address, uint data) => Semaphore(data).Release();

    public void SetInterruptLine(bool asserted) => throw new InvalidOperationException("An adapter has no pin.");

    public void Dispose()
    {
        Function.Unplug();
        _group.ReleaseUser(this);
        _space.Dispose();
        _memory.Dispose();
    }

    public ulong Read(AdapterRegister register)
    {
        var (offset, wide) = Find(register);
        return wide ? Read32At(offset) | ((ulong)Read32At(offset + 4) << 32) : Read32At(offset);
    }

    public void Write(AdapterRegister register, ulong value)
    {
        var (offset, wide) = Find(register);
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        Function.WriteBar(0, offset, bytes[..(wide ? 8 : 4)]);
    }

    public void WaitFor(AdapterRegister register, ulong mask, ulong wanted) =>
        Assert.True(SpinWait.SpinUntil(() => (Read(register) & mask) == wanted, TimeSpan.FromSeconds(10)), $"{register} stays 0x{Read(register):x}");

    /// <summary>Enables the function with the rig's rings.</summary>
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

    public void Disable()
    {
        Write(AdapterRegister.Control, 0);
        WaitFor(AdapterRegister.Status, AdapterStatus.Enabled | AdapterStatus.Error, 0);
        Fill(Commands, 0x2000);
    }

    public void RingCommands(uint producer) => Ring(Layout.CommandDoorbell, producer);

    public void RingEvents(uint consumer) => Ring(Layout.EventDoorbell, consumer);

    public void RingTransmit(int set) => Ring(Layout.TransmitDoorbell + (set * Layout.TransmitStride), 0);

    public PciDoorbell TransmitDoorbell(int set) => new(2, (ulong)(Layout.TransmitDoorbell + (set * Layout.TransmitStride)), 4);

    /// <summary>Puts a command into the ring and rings, without waiting.</summary>
    public void Post(ReadOnlySpan<byte> command)
    {
        WriteMemory(Commands + ((_producer % (1u << CommandLog)) * 64), command);
        _producer++;
        RingCommands(_producer);
    }

    public void Post(AdapterOpcode opcode, uint index = 0, params ReadOnlySpan<ulong> arguments)
    {
        var command = new byte[64];
        BinaryPrimitives.WriteUInt16LittleEndian(command, (ushort)opcode);
        BinaryPrimitives.WriteUInt32LittleEndian(command.AsSpan(4), _producer);
        BinaryPrimitives.WriteUInt32LittleEndian(command.AsSpan(8), index);
        for (var i = 0; i < arguments.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(command.AsSpan(16 + (8 * i)), arguments[i]);
        Post(command);
    }

    /// <summary>The next event, waited for.</summary>
    public RigEvent TakeEvent()
    {
        var at = Events + ((_consumer % (1u << EventLog)) * 32);
        var phase = ~(_consumer >> EventLog) & 1;
        Assert.True(SpinWait.SpinUntil(() => (Word(at + 28) & 1) == phase, TimeSpan.FromSeconds(10)), "no event comes");
        var bytes = ReadMemory(at, 32);
        _consumer++;
        RingEvents(_consumer);
        return new RigEvent(
            (AdapterEventType)BinaryPrimitives.ReadUInt16LittleEndian(bytes),
            (Errno)BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(2)),
            BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(4)),
            BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(8)),
            BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(16)));
    }

    /// <summary>Executes a command and waits for its answer; other events are an error.</summary>
    public RigEvent Do(AdapterOpcode opcode, uint index = 0, params ReadOnlySpan<ulong> arguments)
    {
        var tag = _producer;
        Post(opcode, index, arguments);
        var answer = TakeEvent();
        Assert.Equal((AdapterEventType.CommandDone, tag), (answer.Type, answer.Tag));
        return answer;
    }

    /// <summary>Makes a queue set of 16 descriptors each way with vector set + 1; its memory begins at Free + set * 0x20000.</summary>
    public RigQueues CreateQueues(int set)
    {
        var queues = new RigQueues(this, Free + ((ulong)set * 0x20000), set);
        Fill(queues.Start, 0x1000);
        var answer = Do(AdapterOpcode.CreateQueueSet, 0, queues.Arguments);
        Assert.Equal(Errno.None, answer.Status);
        Assert.Equal((ulong)set, answer.First);
        return queues;
    }

    /// <summary>Lets a PASID of the function reach the rig's memory too.</summary>
    public bool AttachPasid(uint pasid) => _group.TryAttach(this, Dma.ForPasid(pasid), _space, out _);

    /// <summary>Takes that back.</summary>
    public bool DetachPasid(uint pasid) => _group.TryAttach(this, Dma.ForPasid(pasid), null, out _);

    /// <summary>The rig gives the DMA of the function back, and takes it again.</summary>
    public void ChangeOwner()
    {
        _group.ReleaseUser(this);
        Assert.True(_group.TryClaimForUser(this, "rig", out _));
        Assert.True(_group.TryAttach(this, Dma, _space, out _));
    }

    public void WaitInterrupt(uint vector) => Assert.True(Semaphore(vector).Wait(TimeSpan.FromSeconds(10)), $"vector {vector} does not come");

    public int Interrupts(uint vector) => Semaphore(vector).CurrentCount;

    public void WriteMemory(ulong address, ReadOnlySpan<byte> bytes) => _memory.Write(address - Base, bytes);

    public byte[] ReadMemory(ulong address, int length)
    {
        var bytes = new byte[length];
        _memory.Read(address - Base, bytes);
        return bytes;
    }

    public void Fill(ulong address, int length) => WriteMemory(address, new byte[length]);

    public uint Word(ulong address) => BinaryPrimitives.ReadUInt32LittleEndian(ReadMemory(address, 4));

    public void SetWord(ulong address, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        WriteMemory(address, bytes);
    }

    public void SetMaster(bool enabled)
    {
        Span<byte> command = stackalloc byte[2];
        Function.ReadConfig(PciHeader.PCI_COMMAND, command);
        command[0] = (byte)(enabled ? command[0] | 4 : command[0] & ~4);
        Dma.IsBusMaster = enabled;
        Function.WriteConfig(PciHeader.PCI_COMMAND, command);
    }

    /// <summary>Sets up MSI-X: the message of vector n has data n.</summary>
    public void EnableInterrupts()
    {
        var entry = new byte[16];
        for (var i = 0; i < 8; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(entry, 0xFEE00000);
            BinaryPrimitives.WriteInt32LittleEndian(entry.AsSpan(8), i);
            Function.WriteBar(4, (ulong)(i * 16), entry);
        }
        Function.WriteConfig(Function.Config.Layout.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX) + 2, [0, 0x80]);
    }

    /// <summary>Function-level reset, by its bit in the PCI Express capability.</summary>
    public void ResetFunction() => Function.WriteConfig(Function.Config.Layout.FindCapability(PciCapabilityId.PCI_CAP_ID_EXP) + 8, [0, 0x80]);

    /// <summary>Enables virtual functions of a physical one.</summary>
    public static IReadOnlyList<PciFunction> EnableVirtual(AdapterFunction function, int count)
    {
        var sriov = function.Config.Layout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);
        function.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [0, 0]);
        function.WriteConfig(sriov + PciSriov.PCI_SRIOV_NUM_VF, [(byte)count, (byte)(count >> 8)]);
        function.WriteConfig(sriov + PciSriov.PCI_SRIOV_CTRL, [(byte)(count == 0 ? 0 : 9), 0]);
        return [.. function.VirtualFunctions.Cast<PciFunction>()];
    }

    private SemaphoreSlim Semaphore(uint vector) => _interrupts.GetOrAdd(vector, _ => new SemaphoreSlim(0));

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
        throw new InvalidOperationException($"{Layout.Model} has no {register}.");
    }
}

/// <summary>An event as it lay in the ring.</summary>
internal sealed record RigEvent(AdapterEventType Type, Errno Status, uint Tag, ulong First, ulong Second);
