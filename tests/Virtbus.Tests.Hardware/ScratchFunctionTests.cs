using Virtbus.Hardware.Probe;
using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Hardware;

public sealed class ScratchFunctionTests : IDisposable
{
    private readonly FunctionSlot _port = new();
    private readonly ScratchFunction _function = new();

    public ScratchFunctionTests()
    {
        _function.Plug(_port);
        _function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_MASTER | PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_IO, 2);
    }

    private uint this[int register]
    {
        get => _function.Register(0, (ulong)register);
        set => _function.SetRegister(0, (ulong)register, value);
    }

    public void Dispose()
    {
        _function.Dispose();
        _port.Dispose();
    }

    [Fact]
    public void Memory_and_ports_keep_what_is_written()
    {
        Assert.Equal(0x00ED5642u, this[ScratchRegister.Id]);
        this[ScratchRegister.Id] = 0;
        Assert.Equal(0x00ED5642u, this[ScratchRegister.Id]);
        Assert.Equal(0xEDu, _function.Register(0, 2, 1));
        var data = new byte[100];
        new Random(1).NextBytes(data);
        var back = new byte[100];
        foreach (var (bar, offset) in new[] { (0, 0x101UL), (0, 0xF9CUL), (2, 0UL), (2, 0xFF9CUL) })
        {
            _function.WriteBar(bar, offset, data);
            _function.ReadBar(bar, offset, back);
            Assert.Equal(data, back);
        }
        _function.WriteBar(1, 3, [7, 8]);
        Assert.Equal(0x0807u, _function.Register(1, 3, 2));
    }

    [Fact]
    public void Rom_has_a_valid_header()
    {
        var rom = new byte[4096];
        _function.ReadBar(PciBar.Rom, 0, rom);
        Assert.Equal([0x55, 0xAA, 8], rom[..3]);
        Assert.Equal("PCIR"u8, rom.AsSpan(rom[0x18], 4));
        Assert.Equal([0x42, 0x56, 0xED, 0x00], rom[(rom[0x18] + 4)..(rom[0x18] + 8)]);
        Assert.Equal(0, rom.Sum(b => b) & 0xFF);
    }

    [Fact]
    public void Dma_moves_bytes_both_ways_off_the_callers_thread()
    {
        var data = new byte[0x10000];
        new Random(2).NextBytes(data);
        _port.Memory.Write(0x8000, data);
        Transfer(FunctionSlot.MemoryAddress + 0x8000, 0x10000, 0, 1);
        Assert.Equal(2u, this[ScratchRegister.DmaStatus]);
        var back = new byte[0x10000];
        _function.ReadBar(2, 0, back);
        Assert.Equal(data, back);
        Transfer(FunctionSlot.MemoryAddress + 3, 5000, 1234, 2);
        var moved = new byte[5000];
        _port.Memory.Read(3, moved);
        Assert.Equal(data[1234..6234], moved);
        Assert.Equal(2u, this[ScratchRegister.DmaCount]);
    }

    [Fact]
    public void Dma_says_what_went_wrong()
    {
        Transfer(0x5000, 16, 0, 1);
        Assert.Equal(3u, this[ScratchRegister.DmaStatus]);
        foreach (var (length, offset, command) in new (uint, uint, uint)[] { (0, 0, 1), (0x10001, 0, 1), (16, 0xFFF8, 1), (16, 0, 3) })
        {
            Transfer(FunctionSlot.MemoryAddress, length, offset, command);
            Assert.Equal(4u, this[ScratchRegister.DmaStatus]);
        }
        _function.SetConfig(PciHeader.PCI_COMMAND, 0, 2);
        Transfer(FunctionSlot.MemoryAddress, 16, 0, 1);
        Assert.Equal(3u, this[ScratchRegister.DmaStatus]);
    }

    [Fact]
    public void Dma_with_a_pasid_sees_what_is_attached_to_that()
    {
        this[ScratchRegister.DmaPasid] = 0x80000005;
        Transfer(FunctionSlot.MemoryAddress, 16, 0, 1);
        Assert.Equal(3u, this[ScratchRegister.DmaStatus]);
        _port.MapPasid(5);
        Transfer(FunctionSlot.MemoryAddress, 16, 0, 1);
        Assert.Equal(2u, this[ScratchRegister.DmaStatus]);
    }

    [Fact]
    public void Enabled_causes_hold_the_line_until_cleared()
    {
        this[ScratchRegister.Doorbell] = 7;
        Assert.Equal((1u, 7u), (this[ScratchRegister.DoorbellCount], this[ScratchRegister.DoorbellValue]));
        Assert.False(_port.Line);
        this[ScratchRegister.InterruptEnable] = 0b110;
        Assert.True(_port.Line);
        this[ScratchRegister.Raise] = 0;
        this[ScratchRegister.InterruptCause] = 0b010;
        Assert.Equal(0b100u, this[ScratchRegister.InterruptCause]);
        Assert.True(_port.Line);
        this[ScratchRegister.InterruptCause] = 0b100;
        Assert.False(_port.Line);
    }

    [Fact]
    public void Messages_come_by_the_number_of_the_cause()
    {
        var msi = _function.Capability(PciCapabilityId.PCI_CAP_ID_MSI);
        _function.SetConfig(msi + 4, 0xFEE00000);
        _function.SetConfig(msi + 12, 0x40, 2);
        _function.SetConfig(msi + 2, PciMsi.PCI_MSI_FLAGS_ENABLE | (3 << PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT), 2);
        this[ScratchRegister.Doorbell] = 0;
        Assert.Empty(_port.Messages);
        this[ScratchRegister.InterruptEnable] = 7;
        this[ScratchRegister.Doorbell] = 0;
        this[ScratchRegister.Raise] = 6;
        Transfer(FunctionSlot.MemoryAddress, 16, 0, 1);
        Deadline.Until(() => _port.Messages.Count == 3, "three messages");
        Assert.Equal([0x41u, 0x46u, 0x40u], _port.Messages.Select(m => m.Data));
    }

    [Fact]
    public void Signals_of_an_eventfd_ring_the_doorbell_until_it_is_detached()
    {
        var doorbell = Assert.Single(_function.Doorbells);
        using var signal = new EventFd();
        Assert.False(_function.TryAttachDoorbell(doorbell with { Offset = 4 }, signal, out var fault));
        Assert.Equal(Errno.ENOENT, fault.Errno);
        Assert.True(_function.TryAttachDoorbell(doorbell, signal, out _));
        this[ScratchRegister.InterruptEnable] = 0b010;
        signal.Signal();
        Deadline.Until(() => this[ScratchRegister.DoorbellCount] == 1 && _port.Line, "the doorbell");
        this[ScratchRegister.InterruptCause] = 0b010;
        signal.Signal();
        Deadline.Until(() => this[ScratchRegister.DoorbellCount] == 2, "the doorbell again");
        // Another one takes its place; the old one is without effect then.
        using var other = new EventFd();
        Assert.True(_function.TryAttachDoorbell(doorbell, other, out _));
        signal.Signal();
        other.Signal();
        Deadline.Until(() => this[ScratchRegister.DoorbellCount] == 3, "the other doorbell");
        Assert.True(signal.TryRead(out _));
        Assert.True(_function.TryAttachDoorbell(doorbell, null, out _));
        other.Signal();
        // The thread has looked at its signal when it has done a transfer that was asked for later.
        Transfer(FunctionSlot.MemoryAddress, 16, 0, 1);
        Assert.Equal(3u, this[ScratchRegister.DoorbellCount]);
        Assert.True(other.TryRead(out _));
    }

    [Fact]
    public void Doorbell_port_rings_too()
    {
        _function.SetRegister(1, 16, 9, 1);
        Assert.Equal(1u, _function.Register(1, 20));
        Assert.Equal(9u, this[ScratchRegister.DoorbellValue]);
    }

    [Fact]
    public void Memory_bar_can_be_mapped_as_a_whole()
    {
        var area = Assert.Single(_function.GetBarAreas(2));
        Assert.Equal((0UL, 0x10000UL), (area.Offset, area.Size));
        Assert.Empty(_function.GetBarAreas(0));
        Assert.True(HostMemory.TryMap(area.File, area.FileOffset, area.Size, DmaAccess.ReadWrite, out var memory, out _));
        using (memory)
        {
            memory!.Write(100, [1, 2, 3, 4]);
            Assert.Equal(0x04030201u, _function.Register(2, 100));
            _function.SetRegister(2, 0xFFFC, 0xAABBCCDD);
            var value = new byte[4];
            memory.Read(0xFFFC, value);
            Assert.Equal([0xDD, 0xCC, 0xBB, 0xAA], value);
        }
    }

    [Fact]
    public void Reset_in_the_middle_of_transfers_ends_them_and_sets_everything_back()
    {
        _function.SetRegister(2, 0, 1);
        this[ScratchRegister.Memory] = 1;
        for (var i = 0; i < 50; i++)
        {
            _function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_MASTER, 2);
            this[ScratchRegister.InterruptEnable] = 7;
            this[ScratchRegister.DmaAddressHigh] = 1;
            this[ScratchRegister.DmaLength] = 0x10000;
            this[ScratchRegister.DmaCommand] = 2;
            _function.Reset();
            Assert.Equal((0u, 0u, 0u), (this[ScratchRegister.DmaStatus], this[ScratchRegister.InterruptCause], this[ScratchRegister.DmaCount]));
            Assert.False(_port.Line);
        }
        Assert.Equal(0u, _function.Register(2, 0));
        Assert.Equal(0u, this[ScratchRegister.Memory]);
        Assert.Equal(50u, this[ScratchRegister.ResetCount]);
        _function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_MASTER, 2);
        Transfer(FunctionSlot.MemoryAddress, 16, 0, 1);
        Assert.Equal(2u, this[ScratchRegister.DmaStatus]);
    }

    [Fact]
    public void Reset_waits_for_the_part_of_a_transfer_that_is_under_way()
    {
        using var memory = new SlowMemory();
        _port.Map(0x10000, memory);
        this[ScratchRegister.DmaAddressLow] = 0x10000;
        this[ScratchRegister.DmaLength] = 0x10000;
        this[ScratchRegister.DmaCommand] = 2;
        memory.Entered.Comes("the transfer to be at it");
        Assert.Equal(1u, this[ScratchRegister.DmaStatus]);
        var reset = new Thread(_function.Reset) { IsBackground = true };
        reset.Start();
        Deadline.Until(() => reset.ThreadState.HasFlag(ThreadState.WaitSleepJoin), "the reset to wait");
        memory.Leave.Set();
        reset.Ends("the reset");
        // The rest of the transfer is not made.
        Assert.Equal(1, memory.Writes);
        Assert.Equal(0u, this[ScratchRegister.DmaStatus]);
    }

    [Fact]
    public void Broken_function_is_gone()
    {
        var lost = false;
        _function.SetLostCallback(() => lost = true);
        _function.Break();
        Assert.True(lost);
        Assert.Equal(uint.MaxValue, this[ScratchRegister.Id]);
        Assert.Equal(uint.MaxValue, _function.Register(2, 0));
    }

    private void Transfer(ulong address, uint length, uint offset, uint command)
    {
        this[ScratchRegister.DmaAddressLow] = (uint)address;
        this[ScratchRegister.DmaAddressHigh] = (uint)(address >> 32);
        this[ScratchRegister.DmaLength] = length;
        this[ScratchRegister.DmaOffset] = offset;
        this[ScratchRegister.DmaCommand] = command;
        Deadline.Until(() => this[ScratchRegister.DmaStatus] > 1, "the transfer");
    }

    private sealed class SlowMemory : Memory.Dma.IRemoteMemory, IDisposable
    {
        internal ManualResetEvent Entered { get; } = new(false);

        internal ManualResetEvent Leave { get; } = new(false);

        internal int Writes { get; private set; }

        public void Dispose()
        {
            Entered.Dispose();
            Leave.Dispose();
        }

        public bool TryRead(Iova address, Span<byte> destination, out Fault fault) => throw new NotSupportedException();

        public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
        {
            Writes++;
            Entered.Set();
            Leave.Comes("the end of the test");
            fault = Fault.None;
            return true;
        }
    }
}
