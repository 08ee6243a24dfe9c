using Virtbus.Hardware.Probe;
using Virtbus.Hardware.Serial;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Pci.Functions;

/// <summary>The serial port and the scratch function give their state to another one of their kind.</summary>
public sealed class FunctionStateTests
{
    private const int MaxSize = 1 << 20;

    [Fact]
    public void Serial_port_goes_on_in_another_one_with_what_was_under_way_both_ways()
    {
        using var source = new Serial();
        source[2] = 0xC1;
        source[1] = 0x0F;
        source[7] = 0xA5;
        // The other end takes three bytes and no more; five wait in the port. Four came and were not read.
        source.Peer.Room = 3;
        foreach (var value in "abcdefgh")
            source[0] = value;
        Assert.Equal(4, source.Function.Port.TrySend([1, 2, 3, 4]));
        Assert.Equal(1, source[0]);
        Assert.True(source.Function.TryPause(out _));
        source.Peer.Room = 100;
        source.Function.Port.Resume();
        Assert.Equal(0, source.Function.Port.TrySend([9]));
        Assert.Equal("abc", source.Peer.Text);
        var state = Save(source.Function);

        using var target = new Serial();
        Assert.True(target.Function.TryPause(out _));
        Assert.True(Restore(target.Function, state, out var fault), fault.Message);
        Assert.Equal(state, Save(target.Function));
        Assert.Equal("", target.Peer.Text);
        Assert.Equal(0, target.Function.Port.TrySend([5]));
        target.Function.Resume();
        Assert.Equal("defgh", target.Peer.Text);
        Assert.Equal(0xA5, target[7]);
        Assert.Equal([2, 3, 4], [target[0], target[0], target[0]]);
        // Who waited to send is asked when there is room.
        Assert.Equal(1, target.Peer.Asked);
        source.Function.Resume();
        Assert.Equal("abcdefgh", source.Peer.Text);
    }

    [Fact]
    public void State_of_a_serial_port_that_none_can_have_is_refused_and_the_port_stays_as_it_was()
    {
        using var port = new Serial();
        port[2] = 0x01;
        port[7] = 0x11;
        Assert.False(port.Function.TrySave(new StateWriter(), out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        port.Function.TryPause(out _);
        var own = Save(port.Function);
        var content = own.AsSpan().IndexOf("uart-16550"u8) + "uart-16550".Length;
        foreach (var (at, value) in new (int, byte)[] { (0, 0x10), (2, 0x20), (4, 1), (5, 0x10), (6, 2), (7, 0x10), (10, 17), (11, 17), (12, 1), (32, 4), (47, 0x90) })
        {
            var changed = (byte[])own.Clone();
            changed[content + at] = value;
            Assert.False(Restore(port.Function, changed, out fault));
            Assert.Equal(new Fault(Errno.EINVAL, "section 'uart-16550', version 1, has a value that such a port never has"), fault);
        }
        Assert.Equal(own, Save(port.Function));
        port.Function.Resume();
        Assert.False(Restore(port.Function, own, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.Equal(0x11, port[7]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Scratch_function_takes_registers_memories_and_a_transfer_that_waits_along(bool usesMemory)
    {
        using var source = new Scratch();
        source[ScratchRegister.InterruptEnable] = 5;
        source[ScratchRegister.Doorbell] = 0x77;
        source.Function.WriteBar(0, 0x200, [1, 2, 3, 4]);
        source.Function.WriteBar(1, 3, [7, 8]);
        if (usesMemory)
            source.Function.WriteBar(2, 0x100, [0x5A]);
        Assert.True(source.Function.TryPause(out _));
        if (usesMemory)
        {
            source[ScratchRegister.DmaAddressLow] = 0;
            source[ScratchRegister.DmaAddressHigh] = 1;
            source[ScratchRegister.DmaLength] = 16;
            source[ScratchRegister.DmaOffset] = 0x100;
            source[ScratchRegister.DmaCommand] = 2;
            Assert.Equal(1u, source[ScratchRegister.DmaStatus]);
        }
        var state = Save(source.Function);
        Assert.Equal(usesMemory, state.AsSpan().IndexOf("scratch-bar2"u8) >= 0);

        using var target = new Scratch();
        // What this one had in its memory is of another user.
        target.Function.WriteBar(2, 0x300, [0xEE]);
        Assert.True(target.Function.TryPause(out _));
        Assert.True(Restore(target.Function, state, out var fault), fault.Message);
        Assert.Equal((1u, 0x77u, 5u), (target[ScratchRegister.DoorbellCount], target[ScratchRegister.DoorbellValue], target[ScratchRegister.InterruptEnable]));
        Assert.Equal(0x04030201u, target.Function.Register(0, 0x200));
        Assert.Equal(0x0807u, target.Function.Register(1, 3, 2));
        Assert.Equal(0u, target.Function.Register(2, 0x300, 1));
        target.Function.Resume();
        if (!usesMemory)
            return;
        Deadline.Until(() => target[ScratchRegister.DmaStatus] == 2, "the transfer that waited");
        var moved = new byte[1];
        target.Slot.Memory.Read(0, moved);
        Assert.Equal(0x5A, moved[0]);
    }

    [Fact]
    public void State_of_a_scratch_function_that_does_not_fit_is_refused_by_section_and_nothing_changes()
    {
        using var function = new Scratch();
        function.Function.WriteBar(0, 0x200, [1, 2, 3, 4]);
        function.Function.TryPause(out _);
        var own = Save(function.Function);
        Assert.Equal("section 'scratch' is missing", Refused(w => w.Add("uart-16550", 1, new byte[64])));
        Assert.Equal("section 'scratch', version 1, has 71 bytes instead of 72", Refused(w => w.Add("scratch", 1, new byte[71])));
        Assert.Equal("section 'scratch-plain' is of version 2; versions up to 1 are read", Refused(w =>
        {
            w.Add("scratch", 1, new byte[72]);
            w.Add("scratch-plain", 2, new byte[3840]);
        }));
        Assert.Equal("section 'scratch-bar2', version 1, has 65535 bytes instead of 65536", Refused(w =>
        {
            w.Add("scratch", 1, new byte[72]);
            w.Add("scratch-plain", 1, new byte[3840]);
            w.Add("scratch-bar2", 1, new byte[65535]);
        }));
        Assert.Equal("section 'scratch', version 1, has a value that such a function never has", Refused(w =>
        {
            // A transfer is under way, and none waits.
            var registers = new byte[72];
            registers[24] = 1;
            w.Add("scratch", 1, registers);
            w.Add("scratch-plain", 1, new byte[3840]);
        }));
        Assert.Equal("section 'scratch', version 1, has a value that such a function never has", Refused(w =>
        {
            // A PASID has 20 bits and a mark.
            var registers = new byte[72];
            registers[30] = 0x10;
            w.Add("scratch", 1, registers);
            w.Add("scratch-plain", 1, new byte[3840]);
        }));
        Assert.Equal("section 'more', version 1, is not known here", Refused(w =>
        {
            w.Add("scratch", 1, new byte[72]);
            w.Add("scratch-plain", 1, new byte[3840]);
            w.Add("scratch-ports", 1, new byte[16]);
            w.Add("more", 1, []);
        }));
        Assert.Equal(own, Save(function.Function));

        string Refused(Action<StateWriter> write)
        {
            var writer = new StateWriter();
            write(writer);
            Assert.False(Restore(function.Function, writer.ToArray(), out var fault));
            Assert.Equal(Errno.EINVAL, fault.Errno);
            return fault.Message;
        }
    }

    private static byte[] Save(IMovableState function)
    {
        var writer = new StateWriter();
        Assert.True(function.TrySave(writer, out var fault), fault.Message);
        return writer.ToArray();
    }

    private static bool Restore(IMovableState function, byte[] state, out Fault fault) =>
        StateReader.TryRead(state, MaxSize, out var reader, out fault) && function.TryRestore(reader, out fault);

    private sealed class Serial : IDisposable
    {
        private readonly FunctionSlot _slot = new();

        public Serial()
        {
            Function.Plug(_slot);
            Function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_IO, 2);
            Assert.True(Function.Port.TryConnect(Peer, out _));
            this[3] = 0x03;
        }

        public SerialFunction Function { get; } = new(new ManualTime());

        public End Peer { get; } = new();

        public int this[int register]
        {
            get => (int)Function.Register(0, (ulong)register, 1);
            set => Function.SetRegister(0, (ulong)register, (uint)value, 1);
        }

        public void Dispose()
        {
            Function.Dispose();
            _slot.Dispose();
        }
    }

    private sealed class End : ISerialPeer
    {
        private readonly List<byte> _bytes = [];

        public int Room { get; set; } = int.MaxValue;

        public int Asked { get; private set; }

        public string Text => System.Text.Encoding.Latin1.GetString([.. _bytes]);

        public int Receive(ReadOnlySpan<byte> bytes)
        {
            var taken = Math.Min(bytes.Length, Room);
            _bytes.AddRange(bytes[..taken]);
            Room -= taken;
            return taken;
        }

        public void CanSend() => Asked++;

        public void DropUnsent()
        {
        }
    }

    private sealed class Scratch : IDisposable
    {
        public Scratch()
        {
            Function.Plug(Slot);
            Function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_MASTER | PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_IO, 2);
        }

        public FunctionSlot Slot { get; } = new();

        public ScratchFunction Function { get; } = new();

        public uint this[int register]
        {
            get => Function.Register(0, (ulong)register);
            set => Function.SetRegister(0, (ulong)register, value);
        }

        public void Dispose()
        {
            Function.Dispose();
            Slot.Dispose();
        }
    }
}
