using Virtbus.Pci;
using Virtbus.Tests.Pci.Config;

namespace Virtbus.Tests.Pci.Functions;

public sealed class PciFunctionTests : IDisposable
{
    private const int MsiAt = 0x48, MsixAt = 0x60, ExpressAt = 0x6C;
    private const uint Disable = PciCommand.PCI_COMMAND_INTX_DISABLE, Master = PciCommand.PCI_COMMAND_MASTER;
    private readonly FunctionSlot _port = new();
    private readonly TestFunction _function = new(Layouts.Physical);

    public PciFunctionTests()
    {
        _function.Plug(_port);
        _function.SetConfig(PciHeader.PCI_COMMAND, Master, 2);
    }

    private bool StatusBit => (_function.Config(PciHeader.PCI_STATUS, 2) & PciStatus.PCI_STATUS_INTERRUPT) != 0;

    public void Dispose()
    {
        _function.Dispose();
        _port.Dispose();
    }

    [Fact]
    public void Line_and_status_bit_follow_the_function()
    {
        _function.Interrupt(true);
        Assert.True(_port.Line);
        Assert.True(StatusBit);
        _function.Interrupt(true);
        _function.Interrupt(false);
        Assert.False(_port.Line);
        Assert.False(StatusBit);
        Assert.Equal(2, _port.LineChanges);
    }

    [Fact]
    public void Interrupt_disable_holds_the_line_and_not_the_status_bit()
    {
        _function.Interrupt(true);
        _function.SetConfig(PciHeader.PCI_COMMAND, Master | Disable, 2);
        Assert.False(_port.Line);
        Assert.True(StatusBit);
        _function.Interrupt(false);
        Assert.False(StatusBit);
        _function.Interrupt(true);
        Assert.False(_port.Line);
        _function.SetConfig(PciHeader.PCI_COMMAND, Master, 2);
        Assert.True(_port.Line);
    }

    [Theory]
    [InlineData(MsiAt + 2, PciMsi.PCI_MSI_FLAGS_ENABLE, PciInterruptMode.Msi)]
    [InlineData(MsixAt + 2, PciMsix.PCI_MSIX_FLAGS_ENABLE, PciInterruptMode.MsiX)]
    public void Messages_take_the_place_of_the_line(int control, int enable, PciInterruptMode mode)
    {
        _function.Interrupt(true);
        _function.SetConfig(control, (uint)enable, 2);
        Assert.Equal(mode, _function.Mode);
        Assert.False(_port.Line);
        Assert.False(StatusBit);
        _function.SetConfig(control, 0, 2);
        Assert.Equal(PciInterruptMode.Line, _function.Mode);
        Assert.True(_port.Line);
        Assert.True(StatusBit);
    }

    [Fact]
    public void Function_without_a_pin_has_no_line()
    {
        using var function = new TestFunction(ConfigSpaceBuilder.Function(1, 2).Build());
        function.Plug(_port);
        function.Interrupt(true);
        Assert.False(_port.Line);
        Assert.Equal(0u, function.Config(PciHeader.PCI_STATUS, 2) & PciStatus.PCI_STATUS_INTERRUPT);
    }

    [Fact]
    public void Line_is_down_after_unplug_and_up_again_after_plug()
    {
        _function.Interrupt(true);
        _function.Unplug();
        Assert.False(_port.Line);
        Assert.True(StatusBit);
        _function.Plug(_port);
        Assert.True(_port.Line);
    }

    [Fact]
    public void Handler_that_quiets_the_function_in_the_call_of_the_line_does_not_wait_for_itself()
    {
        _port.OnLine = asserted =>
        {
            if (!asserted)
                return;
            _function.Interrupt(false);
            // The bus calls a handler again as long as the line is up.
            Assert.False(_port.Line);
        };
        _function.Interrupt(true);
        Assert.False(_port.Line);
        Assert.Equal(2, _port.LineChanges);
    }

    [Fact]
    public void Line_shows_the_last_state_whoever_set_it()
    {
        var threads = Enumerable.Range(0, 4).Select(n => new Thread(() =>
        {
            for (var i = 0; i < 5000; i++)
                _function.Interrupt(((i ^ n) & 1) != 0);
        }) { IsBackground = true }).ToList();
        threads.ForEach(t => t.Start());
        threads.ForEach(t => t.Ends("a thread with 5000 changes"));
        Assert.Equal(StatusBit, _port.Line);
        _function.Interrupt(true);
        Assert.True(_port.Line);
        _function.Interrupt(false);
        Assert.False(_port.Line);
    }

    [Fact]
    public void Msi_sends_the_message_that_software_wrote()
    {
        _function.SetConfig(MsiAt + 4, 0xFEE00000);
        _function.SetConfig(MsiAt + 8, 2);
        _function.SetConfig(MsiAt + 12, 0x4020, 2);
        Assert.False(_function.Message(1));
        _function.SetConfig(MsiAt + 2, PciMsi.PCI_MSI_FLAGS_ENABLE | (5 << PciMsi.PCI_MSI_FLAGS_QSIZE_SHIFT), 2);
        Assert.True(_function.Message(3));
        Assert.Equal([(0x2_FEE00000UL, 0x4023u)], _port.Messages);
        // Masked: the pending register says so, and unmasking sends.
        _function.SetConfig(MsiAt + 16, 0x10);
        _function.MsiMessage(4);
        Assert.Equal(0x10u, _function.Config(MsiAt + 20));
        _function.SetConfig(MsiAt + 16, 0);
        Assert.Equal(0u, _function.Config(MsiAt + 20));
        Assert.Equal(0x4024u, _port.Messages.Last().Data);
    }

    [Fact]
    public void Msix_table_and_pending_bits_are_in_the_bar_and_registers_around_them()
    {
        _function.SetRegister(0, 0x1010, 0xFEE00000);
        _function.SetRegister(0, 0x1018, 0x77);
        Assert.Equal(1u, _function.Register(0, 0x101C));
        _function.SetConfig(MsixAt + 2, PciMsix.PCI_MSIX_FLAGS_ENABLE, 2);
        Assert.True(_function.Message(1));
        Assert.Empty(_port.Messages);
        Assert.Equal(2u, _function.Register(0, 0x2000));
        _function.SetRegister(0, 0x2000, uint.MaxValue);
        Assert.Equal(2u, _function.Register(0, 0x2000));
        _function.SetRegister(0, 0x101C, 0);
        Assert.Equal([(0xFEE00000UL, 0x77u)], _port.Messages);
        Assert.Equal(0u, _function.Register(0, 0x2000));
        Assert.Empty(_function.Reads);
        Assert.Empty(_function.Writes);

        // An access over the borders of the table is split.
        var bytes = new byte[0x108 + 16];
        _function.ReadBar(0, 0xFF8, bytes);
        Assert.Equal([(0, 0xFF8UL, 8), (0, 0x1100UL, 16)], _function.Reads);
        Assert.Equal(0x5A, bytes[7]);
        Assert.Equal(0x77, bytes[8 + 0x18]);
        Assert.Equal(0x5A, bytes[^1]);
        _function.WriteBar(0, 0x2004, [1, 2, 3, 4, 5, 6, 7, 8]);
        Assert.Equal([5, 6, 7, 8], Assert.Single(_function.Writes).Data);
    }

    // That the BAR is there and the range inside of it is the bus's to see to: AccessTests.
    [Fact]
    public void What_is_written_to_the_rom_is_lost()
    {
        _function.SetRegister(PciBar.Rom, 0, 1);
        Assert.Empty(_function.Writes);
    }

    [Fact]
    public void Only_a_bus_master_sends_messages_and_does_dma()
    {
        _function.SetRegister(0, 0x100C, 0);
        _function.SetConfig(MsixAt + 2, PciMsix.PCI_MSIX_FLAGS_ENABLE, 2);
        Assert.True(_function.CanDoDma());
        _function.SetConfig(PciHeader.PCI_COMMAND, 0, 2);
        Assert.False(_function.CanDoDma());
        _function.Message(0);
        Assert.Empty(_port.Messages);
        _function.SetConfig(PciHeader.PCI_COMMAND, Master, 2);
        _function.Message(0);
        Assert.Single(_port.Messages);
        _function.Unplug();
        Assert.False(_function.CanDoDma());
        _function.Message(0);
        Assert.Single(_port.Messages);
    }

    [Fact]
    public void D3hot_leaves_config_space_only_and_the_way_back_resets()
    {
        _function.SetConfig(0x10, 0xFE000000);
        _function.Interrupt(true);
        _function.SetConfig(Layouts.Power, 3, 2);
        Assert.False(_port.Line);
        Assert.False(_function.CanDoDma());
        Assert.Equal(uint.MaxValue, _function.Register(0, 0));
        Assert.Equal(0xFE000000, _function.Config(0x10));
        Assert.Empty(_function.Resets);
        _function.SetConfig(Layouts.Power, 0, 2);
        Assert.Equal([PciResetKind.FunctionLevel], _function.Resets);
        Assert.Equal(0u, _function.Config(0x10));
        Assert.Equal(0x5A5A5A5Au, _function.Register(0, 0));
    }

    [Fact]
    public void D3hot_without_soft_reset_comes_back_as_it_was()
    {
        using var function = new TestFunction(ConfigSpaceBuilder.Function(1, 2).InterruptPin(1).MemoryBar(0, 4096).PowerManagement(noSoftReset: true).Build());
        function.Plug(_port);
        function.Interrupt(true);
        function.SetConfig(0x10, 0xFE000000);
        function.SetConfig(0x44, 3, 2);
        Assert.False(_port.Line);
        function.SetConfig(0x44, 0, 2);
        Assert.True(_port.Line);
        Assert.Empty(function.Resets);
        Assert.Equal(0xFE000000, function.Config(0x10));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Power_state_that_is_not_there_changes_nothing(uint state)
    {
        _function.SetConfig(Layouts.Power, state | PciPower.PCI_PM_CTRL_PME_ENABLE, 2);
        Assert.Equal((uint)PciPower.PCI_PM_CTRL_PME_ENABLE, _function.Config(Layouts.Power, 2));
    }

    [Fact]
    public void Function_level_reset_sets_back_all_but_sticky_and_link_bits()
    {
        _function.Interrupt(true);
        _function.SetConfig(0x10, 0xFE000000);
        _function.SetConfig(MsixAt + 2, PciMsix.PCI_MSIX_FLAGS_ENABLE, 2);
        _function.SetRegister(0, 0x100C, 0);
        _function.SetConfig(Layouts.Power, PciPower.PCI_PM_CTRL_PME_ENABLE, 2);
        _function.SetConfig(0x108, 0x1000);
        // Payload 256, read request 4096, and the reset bit in one write.
        _function.SetConfig(ExpressAt + 8, 0x5020 | PciExpress.PCI_EXP_DEVCTL_BCR_FLR, 2);
        Assert.Equal([PciResetKind.FunctionLevel], _function.Resets);
        Assert.Contains(_function.Effects, e => e.HasFlag(ConfigEffects.Reset));
        var after = new byte[4096];
        _function.ReadConfig(0, after);
        var expected = Layouts.Physical.GetInitialValues();
        expected[Layouts.Power + 1] |= 1;
        expected[0x109] = 0x10;
        expected[ExpressAt + 8] |= 0x20;
        Assert.Equal(expected, after);
        Assert.Equal(1u, _function.Register(0, 0x100C));
        Assert.False(_port.Line);
        Assert.Equal(PciInterruptMode.Line, _function.Mode);
    }

    [Fact]
    public void Conventional_reset_sets_everything_back()
    {
        _function.SetConfig(0x108, 0x1000);
        _function.SetConfig(ExpressAt + 8, 0x5020, 2);
        _function.Reset();
        Assert.Equal([PciResetKind.Conventional], _function.Resets);
        var after = new byte[4096];
        _function.ReadConfig(0, after);
        Assert.Equal(Layouts.Physical.GetInitialValues(), after);
    }

    [Fact]
    public void Reset_bit_that_is_not_there_does_nothing()
    {
        using var function = new TestFunction(ConfigSpaceBuilder.Function(1, 2).Express(new PciExpressOptions { HasFunctionLevelReset = false }).Build());
        function.SetConfig(0x48, PciExpress.PCI_EXP_DEVCTL_BCR_FLR, 2);
        Assert.Empty(function.Resets);
    }

    [Fact]
    public void Interrupt_that_the_model_raises_while_it_is_reset_is_forgotten()
    {
        _function.ResetAction = _ => _function.Interrupt(true);
        _function.Reset();
        Assert.False(_port.Line);
        Assert.False(StatusBit);
    }

    [Fact]
    public void Unplug_waits_for_a_message_under_way()
    {
        _function.SetRegister(0, 0x100C, 0);
        _function.SetConfig(MsixAt + 2, PciMsix.PCI_MSIX_FLAGS_ENABLE, 2);
        using var inside = new ManualResetEvent(false);
        using var leave = new ManualResetEvent(false);
        _port.OnMessage = () =>
        {
            inside.Set();
            leave.Comes("the end of the test");
        };
        UnplugWaits(() => _function.Message(0), inside, leave);
    }

    [Fact]
    public void Unplug_waits_for_dma_under_way()
    {
        using var inside = new ManualResetEvent(false);
        using var leave = new ManualResetEvent(false);
        UnplugWaits(() => _function.WithDma(() =>
        {
            inside.Set();
            leave.Comes("the end of the test");
        }), inside, leave);
    }

    [Fact]
    public void Lost_function_reads_as_ones_and_says_so_once()
    {
        var lost = 0;
        _function.SetLostCallback(() => lost++);
        _function.Interrupt(true);
        _function.Die();
        _function.Die();
        Assert.Equal(1, lost);
        Assert.False(_function.IsPresent);
        Assert.False(_port.Line);
        Assert.Equal(uint.MaxValue, _function.Config(0));
        Assert.Equal(uint.MaxValue, _function.Register(0, 0));
        Assert.False(_function.IsDecoding(0));
        _function.SetLostCallback(() => lost++);
        Assert.Equal(2, lost);
    }

    [Fact]
    public void Second_slot_is_refused()
    {
        using var other = new FunctionSlot();
        Assert.Throws<InvalidOperationException>(() => _function.Plug(other));
    }

    [Fact]
    public void Registers_and_interrupts_allocate_nothing()
    {
        _function.IsRecording = false;
        using var quiet = new TestFunction(Layouts.Physical) { IsRecording = false };
        quiet.Plug(new QuietPort(_port.Dma));
        quiet.SetConfig(PciHeader.PCI_COMMAND, Master, 2);
        var value = new byte[8];
        for (var round = 0; round < 2; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 1000; i++)
            {
                quiet.ReadBar(0, 0, value);
                quiet.WriteBar(0, 8, value);
                quiet.ReadBar(0, 0x1000, value);
                quiet.WriteBar(0, 0x1000, value);
                quiet.Interrupt(true);
                quiet.Interrupt(false);
                quiet.SetConfig(MsiAt + 2, PciMsi.PCI_MSI_FLAGS_ENABLE, 2);
                quiet.Message(0);
                quiet.SetConfig(MsiAt + 2, 0, 2);
            }
            if (round == 1)
                Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        }
    }

    private void UnplugWaits(ThreadStart work, WaitHandle inside, EventWaitHandle leave)
    {
        var worker = new Thread(work) { IsBackground = true };
        worker.Start();
        inside.Comes("the function to be at it");
        var unplug = new Thread(_function.Unplug) { IsBackground = true };
        unplug.Start();
        Deadline.Until(() => unplug.ThreadState.HasFlag(ThreadState.WaitSleepJoin), "the unplug to wait");
        Assert.False(_function.CanDoDma());
        leave.Set();
        unplug.Ends("the unplug");
        worker.Ends("the function's user");
        _port.OnMessage = null;
        _function.Message(0);
        Assert.InRange(_port.Messages.Count, 0, 1);
    }
}
