using Virtbus.Buses.Pci;
using Virtbus.Drivers.VfioPci;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>
/// Eventfds that stand for notifications at the port of a virtual function (VV-06): with the function as long as the write would reach it, and no longer. Descriptors
/// are counted for the whole process, so nothing else runs meanwhile.
/// </summary>
[Collection(nameof(Alone))]
public sealed class VirtioLegacyDoorbellTests
{
    private const int Port = 16;
    private static readonly PciDoorbell Modern = new(FakeVirtioFunction.RegisterBar, 0x2000, 2);
    private static readonly PciDoorbell First = new(FakeVirtioFunction.RegisterBar, FakeVirtioFunction.NotifyAt, 2, 0);
    private static readonly PciDoorbell Second = First with { Match = 1 };

    // What is not of the port: of another place, any value, another size.
    private static readonly PciDoorbell[] All = [Modern, First, Second, First with { Offset = 0x2004 }, First with { Match = null }, First with { Size = 4 }];

    [Fact]
    public async Task Port_has_those_of_the_function_that_do_the_same_and_they_are_there_alone()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync(All);
        using var open = user;
        Assert.Equal([new(Port, 2, 0), new VfioDoorbell(Port, 2, 1)], user.Handle.GetDoorbells(0));
        Assert.Equal([new(0x2000, 2, null), new(0x2004, 2, 0), new(0x3000, 2, null), new VfioDoorbell(0x3000, 4, 0)], user.Handle.GetDoorbells(FakeVirtioFunction.RegisterBar));
        using var signal = new EventFd();
        user.Config16(4, 3);
        Assert.Equal(Errno.ENOENT, Attach(0, new VfioDoorbell(Port, 2, 2)));
        Assert.Equal(Errno.ENOENT, Attach(0, new VfioDoorbell(Port, 2, null)));
        Assert.Equal(Errno.ENOENT, Attach(0, new VfioDoorbell(0x3000, 2, 0)));
        Assert.Equal(Errno.ENOENT, Attach(FakeVirtioFunction.RegisterBar, new VfioDoorbell(0x3000, 2, 0)));
        Assert.Equal(Errno.ENOENT, Attach(1, new VfioDoorbell(Port, 2, 0)));
        Assert.Empty(world.Hardware.Signals);
        Assert.Equal(Errno.None, Attach(0, new VfioDoorbell(Port, 2, 1)));
        Assert.Equal([(0, Second)], world.Hardware.Signals.Keys);

        Errno Attach(uint region, VfioDoorbell doorbell)
        {
            user.Handle.TryAttachDoorbell(region, doorbell, signal, out var fault);
            return fault.Errno;
        }
    }

    [Fact]
    public async Task Signal_reaches_the_function_only_while_the_write_would()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync(All);
        using var open = user;
        using var port = new EventFd();
        using var modern = new EventFd();
        Assert.True(user.Handle.TryAttachDoorbell(0, new VfioDoorbell(Port, 2, 0), port, out _));
        Assert.True(user.Handle.TryAttachDoorbell(FakeVirtioFunction.RegisterBar, new VfioDoorbell(0x2000, 2, null), modern, out _));
        Expect(Modern);
        user.Config16(4, 0);
        Expect();
        // What is signalled now is lost, as the write is refused.
        port.Signal();
        modern.Signal();
        user.Config16(4, PciCommand.PCI_COMMAND_IO);
        Expect(First);
        Assert.Equal((0ul, 1ul), (PciUser.Count(port), PciUser.Count(modern)));
        user.Config16(4, PciCommand.PCI_COMMAND_IO | PciCommand.PCI_COMMAND_MEMORY);
        Expect(First, Modern);
        // What is signalled while it counts is the function's to take.
        port.Signal();
        user.Config16(4, PciCommand.PCI_COMMAND_IO | PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
        Expect(First, Modern);
        Assert.Equal(1ul, PciUser.Count(world.Hardware.Signals[(0, First)]));
        user.Config16(4, PciCommand.PCI_COMMAND_MEMORY);
        Expect(Modern);
        user.Write(PciUser.Config, 4, 1, PciCommand.PCI_COMMAND_IO);
        Expect(First);
        var power = user.Capability(PciCapabilityId.PCI_CAP_ID_PM);
        user.Config16(power + PciPower.PCI_PM_CTRL, 3);
        Expect();
        user.Config16(power + PciPower.PCI_PM_CTRL, 0);
        Expect(First);
        // The configuration moves with MSI-X, the place of notifications does not.
        user.SetTrigger(VfioPciIrq.VFIO_PCI_MSIX_IRQ_INDEX, 0, modern);
        Expect(First);
        user.DisableIrqs(VfioPciIrq.VFIO_PCI_MSIX_IRQ_INDEX);
        Expect(First);
        // Its physical function's driver has nothing to do with it.
        world.Physical.SetDriverData<FakeAdminOwner>(null);
        Expect(First);
        Assert.True(user.Handle.TryAttachDoorbell(0, new VfioDoorbell(Port, 2, 0), null, out _));
        Expect();
        user.Config16(4, PciCommand.PCI_COMMAND_IO | PciCommand.PCI_COMMAND_MEMORY);
        Expect(Modern);

        void Expect(params PciDoorbell[] doorbells) => Assert.Equivalent(doorbells.Select(static d => (0, d)), world.Hardware.Signals.Keys, strict: true);
    }

    [Theory]
    [InlineData("user")]
    [InlineData("config")]
    [InlineData("system")]
    [InlineData("physical")]
    public async Task After_a_reset_a_signal_is_nobody_s_until_ports_are_enabled_again(string way)
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync(All);
        using var open = user;
        using var signal = new EventFd();
        Assert.True(user.Handle.TryAttachDoorbell(0, new VfioDoorbell(Port, 2, 1), signal, out _));
        user.Config16(4, PciCommand.PCI_COMMAND_IO);
        Assert.Equal([(0, Second)], world.Hardware.Signals.Keys);
        await world.ResetAsync(user, way);

        Assert.Empty(world.Hardware.Signals);
        signal.Signal();
        user.Config16(4, PciCommand.PCI_COMMAND_IO);
        Assert.Equal([(0, Second)], world.Hardware.Signals.Keys);
        Assert.Equal(0ul, PciUser.Count(signal));
        signal.Signal();
        Assert.Equal(1ul, PciUser.Count(world.Hardware.Signals[(0, Second)]));
    }

    [Fact]
    public async Task Registers_are_with_the_function_again_after_a_reset_of_the_physical_one()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync(All);
        using var open = user;
        using var signal = new EventFd();
        Assert.True(user.Handle.TryAttachDoorbell(FakeVirtioFunction.RegisterBar, new VfioDoorbell(0x2000, 2, null), signal, out _));
        user.Config16(4, PciCommand.PCI_COMMAND_MEMORY);
        await PciReset.ResetAsync(world.Physical).In();
        Assert.Equal([(0, Modern)], world.Hardware.Signals.Keys);
    }

    [Fact]
    public async Task No_descriptor_is_left_whatever_becomes_of_them()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync(All);
        using var first = new EventFd();
        using var second = new EventFd();
        var before = Kernel.DescriptorsBefore();
        for (var round = 0; round < 8; round++)
        {
            foreach (var signal in (EventFd?[])[first, second, null, first])
            {
                Assert.True(user.Handle.TryAttachDoorbell(0, new VfioDoorbell(Port, 2, 0), signal, out _));
                user.Config16(4, PciCommand.PCI_COMMAND_IO);
                Assert.True(user.Handle.TryAttachDoorbell(0, new VfioDoorbell(Port, 2, 1), signal, out _));
                user.Config16(4, 0);
            }

            // One that is refused.
            Assert.False(user.Handle.TryAttachDoorbell(0, new VfioDoorbell(Port, 2, 7), first, out _));
            user.Config16(4, PciCommand.PCI_COMMAND_IO);
            Assert.Equal(before + 4, Kernel.Descriptors);
            user.Dispose();
            Assert.Empty(world.Hardware.Signals);
            Assert.Equal(before, Kernel.Descriptors);
            user = VfioPciWorld.Open(world.Functions[0]);
        }

        user.Dispose();
    }
}
