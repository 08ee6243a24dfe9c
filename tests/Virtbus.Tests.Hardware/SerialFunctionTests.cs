using Virtbus.Hardware.Serial;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Hardware;

/// <summary>The serial port, driven register by register as a PC's driver does.</summary>
public sealed class SerialFunctionTests : IDisposable
{
    private const int RBR = 0, THR = 0, DLL = 0, IER = 1, DLM = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7;
    private readonly FunctionSlot _slot = new();
    private readonly ManualTime _time = new();
    private readonly SerialFunction _function;
    private readonly Peer _peer = new();

    public SerialFunctionTests()
    {
        _function = new SerialFunction(_time);
        _function.Plug(_slot);
        _function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_IO, 2);
        _peer.Port = _function.Port;
        this[LCR] = 0x03;
    }

    private int this[int register]
    {
        get => (int)_function.Register(0, (ulong)register, 1);
        set => _function.SetRegister(0, (ulong)register, (uint)value, 1);
    }

    public void Dispose()
    {
        _function.Dispose();
        _slot.Dispose();
    }

    [Fact]
    public void It_is_the_function_that_guests_have_a_driver_for()
    {
        Assert.Equal(0x00021B36u, _function.Config(PciHeader.PCI_VENDOR_ID));
        Assert.Equal(0x07000201u, _function.Config(PciHeader.PCI_REVISION_ID));
        Assert.Equal(0x11001AF4u, _function.Config(PciHeader.PCI_SUBSYSTEM_VENDOR_ID));
        Assert.Equal(1u, _function.Config(PciHeader.PCI_INTERRUPT_PIN, 1));
        Assert.Equal(new PciBar(PciBarKind.Io, 8), _function.GetBar(0));
    }

    [Fact]
    public void Probe_of_a_driver_finds_a_16550A()
    {
        // Four interrupt enable bits, no more.
        this[IER] = 0;
        Assert.Equal(0, this[IER]);
        this[IER] = 0xFF;
        Assert.Equal(0x0F, this[IER]);
        this[IER] = 0;
        // Loopback: RTS and OUT2 come back as CTS and DCD.
        this[MCR] = 0x1A;
        Assert.Equal(0x90, this[MSR] & 0xF0);
        this[MCR] = 0x15;
        Assert.Equal(0x60, this[MSR] & 0xF0);
        this[MCR] = 0;
        // No enhanced registers behind the LCR values of larger chips.
        this[LCR] = 0xBF;
        this[FCR] = 0;
        this[LCR] = 0;
        this[FCR] = 1;
        Assert.Equal(3, this[IIR] >> 6);
        this[LCR] = 0xE0;
        Assert.Equal(0xC1, this[IIR]);
        this[LCR] = 0;
        // The 64-byte FIFO of a 16750 is not there.
        this[FCR] = 0x21;
        Assert.Equal(0, this[IIR] & 0x20);
        this[SCR] = 0xA5;
        Assert.Equal(0xA5, this[SCR]);
        this[FCR] = 0;
        Assert.Equal(0x01, this[IIR]);
    }

    [Fact]
    public void Interrupt_of_the_empty_transmitter_comes_each_time_it_is_enabled()
    {
        Assert.Equal(0x60, this[LSR]);
        for (var i = 0; i < 3; i++)
        {
            this[IER] = 2;
            Assert.True(_slot.Line);
            Assert.Equal(2, this[IIR] & 0x0F);
            // Reading it cleared it.
            Assert.False(_slot.Line);
            Assert.Equal(1, this[IIR] & 0x0F);
            this[IER] = 0;
        }
    }

    [Fact]
    public void Line_stays_up_while_a_fast_peer_takes_each_byte()
    {
        Connect();
        this[FCR] = 1;
        this[IER] = 2;
        var changes = _slot.LineChanges;
        foreach (var value in "hello"u8)
            this[THR] = value;
        Assert.Equal("hello", _peer.Text);
        Assert.True(_slot.Line);
        Assert.Equal(changes, _slot.LineChanges);
        Assert.Equal(0xC2, this[IIR]);
        Assert.False(_slot.Line);
    }

    [Fact]
    public void Slow_peer_makes_the_guest_wait_and_loses_nothing()
    {
        Connect();
        _peer.Room = 3;
        this[FCR] = 1;
        this[IER] = 2;
        _ = this[IIR];
        for (var i = 0; i < 16; i++)
            this[THR] = 'a' + i;
        Assert.Equal("abc", _peer.Text);
        Assert.Equal(0, this[LSR] & 0x60);
        Assert.False(_slot.Line);
        _peer.Room = 12;
        _function.Port.Resume();
        Assert.Equal("abcdefghijklmno", _peer.Text);
        Assert.Equal(0, this[LSR] & 0x60);
        _peer.Room = int.MaxValue;
        _function.Port.Resume();
        Assert.Equal("abcdefghijklmnop", _peer.Text);
        Assert.Equal(0x60, this[LSR] & 0x60);
        Assert.True(_slot.Line);
    }

    [Fact]
    public void Bytes_that_were_taken_from_the_line_before_a_reset_vanish()
    {
        Connect();
        var resets = _function.Port.Resets;
        Assert.Equal(1, _function.Port.TrySend("ab"u8, resets));
        _function.Reset();
        this[LCR] = 3;
        Assert.Equal(0, this[LSR] & 1);
        Assert.Equal(1, _function.Port.TrySend("b"u8, resets));
        Assert.Equal(0, this[LSR] & 1);
        Assert.Equal(1, _function.Port.TrySend("c"u8, _function.Port.Resets));
        Assert.Equal('c', this[RBR]);
    }

    [Fact]
    public void Bytes_to_the_guest_wait_for_room_in_its_fifo()
    {
        Connect();
        // FIFOs off: one byte.
        Assert.Equal(1, _function.Port.TrySend("xy"u8));
        Assert.Equal('x', this[RBR]);
        Assert.Equal(1, _peer.Asked);
        this[FCR] = 1;
        Assert.Equal(16, _function.Port.TrySend("0123456789abcdefgh"u8));
        Assert.Equal(0, _function.Port.TrySend("gh"u8));
        for (var i = 0; i < 16; i++)
        {
            Assert.Equal(1, _peer.Asked);
            Assert.Equal(1, this[LSR] & 1);
            Assert.Equal("0123456789abcdef"[i], this[RBR]);
        }
        Assert.Equal(2, _peer.Asked);
        Assert.Equal(0, this[LSR] & 1);
        // What did not find room was not kept either.
        Assert.Equal(2, _function.Port.TrySend("gh"u8));
        Assert.Equal('g', this[RBR]);
        Assert.Equal('h', this[RBR]);
        Assert.Equal(2, _peer.Asked);
        // A FIFO that is cleared has room again.
        Assert.Equal(16, _function.Port.TrySend(new byte[20]));
        this[FCR] = 3;
        Assert.Equal(3, _peer.Asked);
    }

    [Theory]
    [InlineData(0x01, 1)]
    [InlineData(0x41, 4)]
    [InlineData(0x81, 8)]
    [InlineData(0xC1, 14)]
    public void Receive_interrupt_comes_at_the_trigger_level_and_goes_below_it(int control, int trigger)
    {
        this[FCR] = control;
        this[IER] = 1;
        for (var i = 1; i < trigger; i++)
        {
            _function.Port.TrySend([(byte)i]);
            Assert.False(_slot.Line);
        }
        _function.Port.TrySend([(byte)trigger]);
        Assert.True(_slot.Line);
        Assert.Equal(0xC4, this[IIR]);
        Assert.Equal(1, this[RBR]);
        Assert.False(_slot.Line);
        Assert.Equal(0xC1, this[IIR]);
    }

    [Fact]
    public void Rest_below_the_trigger_level_is_reported_after_four_characters()
    {
        this[LCR] = 0x83;
        this[DLL] = 1;
        this[DLM] = 0;
        this[LCR] = 0x03;
        this[FCR] = 0xC1;
        this[IER] = 1;
        // 115200 baud, 10 bits: a character takes 86.8 us.
        _function.Port.TrySend("ab"u8);
        _time.Advance(TimeSpan.FromMicroseconds(340));
        Assert.False(_slot.Line);
        _time.Advance(TimeSpan.FromMicroseconds(10));
        Assert.True(_slot.Line);
        Assert.Equal(0xCC, this[IIR]);
        // Reading one takes it away, and the time starts anew for the rest.
        Assert.Equal('a', this[RBR]);
        Assert.False(_slot.Line);
        _time.Advance(TimeSpan.FromMilliseconds(2));
        Assert.Equal(0xCC, this[IIR]);
        Assert.Equal('b', this[RBR]);
        _time.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal(0xC1, this[IIR]);
    }

    [Fact]
    public void Character_that_comes_in_time_puts_the_timeout_off()
    {
        this[LCR] = 0x83;
        this[DLL] = 12;
        this[LCR] = 0x03;
        this[FCR] = 0xC1;
        this[IER] = 1;
        // 9600 baud: four characters take 4.2 ms.
        _function.Port.TrySend("a"u8);
        _time.Advance(TimeSpan.FromMilliseconds(3));
        _function.Port.TrySend("b"u8);
        _time.Advance(TimeSpan.FromMilliseconds(3));
        Assert.False(_slot.Line);
        _time.Advance(TimeSpan.FromMilliseconds(2.2));
        Assert.True(_slot.Line);
    }

    [Fact]
    public void Divisor_stands_behind_its_access_bit()
    {
        this[IER] = 5;
        this[LCR] = 0x83;
        this[DLL] = 0x34;
        this[DLM] = 0x12;
        Assert.Equal((0x34, 0x12), (this[DLL], this[DLM]));
        this[LCR] = 0x03;
        Assert.Equal(5, this[IER]);
        Assert.Equal(0, this[RBR]);
        Assert.Equal("", _peer.Text);
    }

    [Fact]
    public void Characters_have_as_many_bits_as_the_line_control_says()
    {
        Connect();
        this[LCR] = 0x02;
        this[THR] = 0xC1;
        Assert.Equal("A", _peer.Text);
        _function.Port.TrySend([0xC2]);
        Assert.Equal('B', this[RBR]);
    }

    [Fact]
    public void Loopback_hears_itself_and_nobody_else()
    {
        Connect();
        this[FCR] = 1;
        this[MCR] = 0x10;
        Assert.Equal(0, _function.Port.TrySend("x"u8));
        foreach (var value in "loop"u8)
            this[THR] = value;
        Assert.Equal("", _peer.Text);
        Assert.Equal("loop", string.Concat(Enumerable.Range(0, 4).Select(_ => (char)this[RBR])));
        Assert.Equal(0, this[LSR] & 1);
        Assert.Equal(0, _peer.Asked);
        this[MCR] = 0;
        Assert.Equal(1, _peer.Asked);
        Assert.Equal(1, _function.Port.TrySend("x"u8));
    }

    [Fact]
    public void Overrun_in_loopback_is_a_line_status_interrupt_that_reading_clears()
    {
        this[FCR] = 1;
        this[IER] = 4;
        this[MCR] = 0x10;
        for (var i = 0; i < 16; i++)
            this[THR] = i;
        Assert.False(_slot.Line);
        this[THR] = 99;
        Assert.True(_slot.Line);
        Assert.Equal(0xC6, this[IIR]);
        Assert.Equal(0x63, this[LSR]);
        Assert.False(_slot.Line);
        Assert.Equal(0x61, this[LSR]);
        Assert.Equal(Enumerable.Range(0, 16), Enumerable.Range(0, 16).Select(_ => this[RBR]));
    }

    [Fact]
    public void Break_is_marked_when_it_is_the_next_character()
    {
        this[FCR] = 1;
        this[IER] = 4;
        _function.Port.TrySend("a"u8);
        _function.Port.SendBreak();
        // An error somewhere in the FIFO shows in bit 7; it is reported when its character is next.
        Assert.Equal(0xE1, this[LSR]);
        Assert.False(_slot.Line);
        Assert.Equal('a', this[RBR]);
        Assert.True(_slot.Line);
        Assert.Equal(0xC6, this[IIR]);
        Assert.Equal(0xF1, this[LSR]);
        Assert.False(_slot.Line);
        Assert.Equal(0, this[RBR]);
        Assert.Equal(0x60, this[LSR]);
    }

    [Fact]
    public void Peer_shows_as_modem_lines_with_an_interrupt_for_the_change()
    {
        Assert.Equal(0, this[MSR]);
        this[IER] = 8;
        Connect();
        Assert.True(_slot.Line);
        Assert.Equal(0x00, this[IIR] & 0x0F);
        Assert.Equal(0xBB, this[MSR]);
        Assert.False(_slot.Line);
        Assert.Equal(0xB0, this[MSR]);
        Assert.False(_function.Port.TryConnect(new Peer(), out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        _function.Port.Disconnect(new Peer());
        Assert.True(_function.Port.IsConnected);
        _function.Port.Disconnect(_peer);
        Assert.False(_function.Port.IsConnected);
        Assert.Equal(0x0B, this[MSR]);
    }

    [Fact]
    public void Interrupts_are_named_in_the_order_of_their_rank()
    {
        this[FCR] = 1;
        this[IER] = 0x0F;
        Connect();
        this[MCR] = 0x10;
        for (var i = 0; i < 17; i++)
            this[THR] = i;
        Assert.Equal(0xC6, this[IIR]);
        _ = this[LSR];
        Assert.Equal(0xC4, this[IIR]);
        this[FCR] = 3;
        Assert.Equal(0xC2, this[IIR]);
        Assert.Equal(0xC0, this[IIR]);
        _ = this[MSR];
        Assert.Equal(0xC1, this[IIR]);
        Assert.False(_slot.Line);
    }

    [Fact]
    public void Interrupt_does_not_depend_on_out2()
    {
        this[MCR] = 0;
        this[IER] = 2;
        Assert.True(_slot.Line);
        Assert.Equal((uint)PciStatus.PCI_STATUS_INTERRUPT, _function.Config(PciHeader.PCI_STATUS, 2) & PciStatus.PCI_STATUS_INTERRUPT);
    }

    [Fact]
    public void Reset_sets_the_registers_back_and_wakes_who_waits()
    {
        Connect();
        this[FCR] = 1;
        this[IER] = 0x0F;
        this[SCR] = 1;
        _peer.Room = 0;
        this[THR] = 'x';
        Assert.Equal(16, _function.Port.TrySend(new byte[17]));
        _function.Reset();
        Assert.Equal((0, 1, 0, 0x60, 0), (this[IER], this[IIR], this[MCR], this[LSR], this[SCR]));
        Assert.False(_slot.Line);
        Assert.Equal(1, _peer.Asked);
        Assert.Equal("", _peer.Text);
    }

    [Fact]
    public void Wide_accesses_are_so_many_registers()
    {
        _function.SetRegister(0, SCR - 3, 0x77000000);
        Assert.Equal(0x77, this[SCR]);
        Assert.Equal(0x0160u, _function.Register(0, LSR, 2) | 0x0100u);
    }

    [Fact]
    public void Interrupt_driven_driver_carries_text_both_ways()
    {
        const int Bytes = 20_000;
        var toGuest = new byte[Bytes];
        var fromGuest = new byte[Bytes];
        new Random(3).NextBytes(toGuest);
        new Random(4).NextBytes(fromGuest);
        _peer.Outgoing = toGuest;
        Connect();
        this[FCR] = 0x87;
        this[IER] = 0x03;
        _peer.CanSend();
        var seen = new List<byte>();
        var sent = 0;
        while (seen.Count < Bytes || sent < Bytes)
        {
            int id;
            while (((id = this[IIR]) & 1) == 0)
            {
                while ((this[LSR] & 1) != 0)
                    seen.Add((byte)this[RBR]);
                for (var i = 0; (id & 0x0E) == 2 && i < 16 && sent < Bytes; i++)
                    this[THR] = fromGuest[sent++];
            }
            Assert.False(_slot.Line);
            // What is below the trigger level comes by the timeout.
            _time.Advance(TimeSpan.FromMilliseconds(10));
            Assert.True(_slot.Line || (seen.Count == Bytes && sent == Bytes), $"No interrupt came after {seen.Count} bytes in and {sent} out.");
        }
        Assert.Equal(toGuest, seen);
        Assert.Equal(fromGuest, _peer.Bytes);
    }

    [Fact]
    public void Register_accesses_allocate_nothing()
    {
        _function.Unplug();
        _function.Plug(new QuietPort(_slot.Dma));
        this[FCR] = 1;
        this[IER] = 0x0F;
        for (var round = 0; round < 2; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 1000; i++)
            {
                this[THR] = i;
                _ = this[IIR];
                _ = this[LSR];
                _ = this[RBR];
            }
            if (round == 1)
                Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        }
    }

    private void Connect() => Assert.True(_function.Port.TryConnect(_peer, out _));

    private sealed class Peer : ISerialPeer
    {
        private readonly List<byte> _bytes = [];
        private int _sent;

        internal SerialPort? Port { get; set; }

        internal byte[] Outgoing { get; set; } = [];

        internal int Room { get; set; } = int.MaxValue;

        internal int Asked { get; private set; }

        internal byte[] Bytes => [.. _bytes];

        internal string Text => System.Text.Encoding.Latin1.GetString(Bytes);

        public int Receive(ReadOnlySpan<byte> bytes)
        {
            var taken = Math.Min(bytes.Length, Room);
            _bytes.AddRange(bytes[..taken]);
            Room -= taken;
            return taken;
        }

        public void DropUnsent() => _sent = Outgoing.Length;

        public void CanSend()
        {
            Asked++;
            while (_sent < Outgoing.Length)
            {
                var rest = Outgoing.AsSpan(_sent);
                var taken = Port!.TrySend(rest);
                _sent += taken;
                if (taken < rest.Length)
                    return;
            }
        }
    }
}
