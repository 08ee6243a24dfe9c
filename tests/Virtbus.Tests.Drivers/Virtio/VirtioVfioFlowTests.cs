using Virtbus.Buses.Pci;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>
/// The whole way: a machine's own drivers, vfio-user, the variant, the physical function's driver, its administration queue, a virtual function that is modern only
/// (VV-01 to VV-03, VV-06, TD-06).
/// </summary>
public sealed class VirtioVfioFlowTests
{
    [Fact]
    public async Task Drivers_of_both_ages_take_one_function_in_turns_and_frames_pass_each_way()
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        Assert.StartsWith("virtio-vfio-pci-trans", host.Rig.Base.Read(host.Function.DevPath + "/virtio_vfio_ops"), StringComparison.Ordinal);
        foreach (var isLegacy in new[] { true, false, true, true, false })
        {
            await using (var guest = await host.ConnectAsync(isLegacy))
            {
                Assert.Equal(isLegacy, guest.Rig.Only.IsLegacy);
                var pci = guest.Device;
                // Old and new drivers find what they look for in one function.
                Assert.Equal((0x1AF4, 0x1000, 0, 1), (pci.VendorId, pci.DeviceId, (int)pci.Revision, (int)pci.SubsystemId));
                Assert.Equal(VirtioVfioMachine.There, guest.Net.Address);
                await host.ExchangeAsync(guest);
            }

            await Deadline.UntilAsync(() => !host.Offered.IsOpen, "the machine's end");
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Machine_that_boots_anew_finds_its_function_as_it_was(bool isLegacy)
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        await using var guest = await host.ConnectAsync(isLegacy);
        for (var boot = 0; boot < 3; boot++)
        {
            await host.ExchangeAsync(guest, 50);
            // MSI-X goes off with the driver and comes with the next one: the configuration moves.
            await guest.BootAsync();
            Assert.Equal(VirtioVfioMachine.There, guest.Net.Address);
            Assert.NotEmpty(guest.Device.Vectors);
        }

        await host.ExchangeAsync(guest, 50);
    }

    [Fact]
    public async Task Configuration_is_where_the_interrupts_of_the_moment_put_it()
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        var user = VfioPciWorld.Open(host.Function);
        using var end = user;
        user.Config16(4, 7);
        byte[] mac = [0x02, 0, 0, 0, 0, 0x10];
        using var signal = new EventFd();
        for (var round = 0; round < 3; round++)
        {
            Assert.Equal(mac, Bytes(20));
            user.SetTrigger(2, 0, signal);
            Assert.Equal(mac, Bytes(24));
            Assert.Equal(0xFFFFul, user.Read(0, 22, 2));
            user.DisableIrqs(2);
        }

        // What is no field is the device's to refuse.
        Assert.Equal(Errno.EINVAL, user.ErrorOfRead(0, 2, 4));
        Assert.Equal(Errno.EINVAL, user.ErrorOfRead(0, 0, 32));
        Assert.Equal(Errno.EINVAL, user.ErrorOfWrite(0, 14, 4));

        byte[] Bytes(int at) => [.. Enumerable.Range(at, 6).Select(i => (byte)user.Read(0, (ulong)i, 1))];
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Frames_of_either_driver_cost_no_message(bool isLegacy)
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        await using var guest = await host.ConnectAsync(isLegacy);
        var queues = host.Function.Doorbells.Count / 2;
        Assert.Equal(Enumerable.Range(0, queues).Select(static i => new PciDoorbell(0, 16, 2, (ulong)i)), guest.Function.Doorbells.Where(static d => d.Bar == 0));
        await host.ExchangeAsync(guest, 20);
        // One that came late, from before the driver was up.
        var before = host.Messages;
        await host.ExchangeAsync(guest, 100);
        Assert.Equal(before, host.Messages);
    }

    [Fact]
    public async Task Each_function_reaches_its_own_registers()
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        for (var i = 0; i < 2; i++)
        {
            var function = host.Physical.VirtualFunctions[i];
            await host.Rig.Base.BindAsync(function, "virtio-vfio-pci");
            using var user = VfioPciWorld.Open(function);
            user.Config16(4, 7);
            Assert.Equal((ulong)(0x10 + i), user.Read(0, 25, 1));
            user.SetTrigger(2, 0, (EventFd?)null);
            Assert.Equal((ulong)(0x10 + i), user.Read(0, 29, 1));
            user.Write(0, 18, 1, (ulong)(1 + (2 * i)));
            Assert.Equal((ulong)(1 + (2 * i)), user.Read(0, 18, 1));
        }
    }

    [Fact]
    public async Task Driver_of_the_physical_device_goes_and_comes_back_under_the_machine()
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        await using var guest = await host.ConnectAsync(isLegacy: true);
        await host.ExchangeAsync(guest, 50);
        var virtio = host.Rig.Base.Virtio.Devices.Single(d => d.Parent == host.Physical);
        var driver = virtio.Driver!;
        await host.Rig.Fabric.UnbindAsync(driver, virtio.Name).In();
        Assert.False(VirtioPciAdmin.HasLegacyIo(host.Function));
        // Frames need no commands.
        await host.ExchangeAsync(guest, 50);
        var pci = guest.Device;
        Assert.Equal(0xFFFFFFFF, pci.GetRegion(0).Read32(0));
        await host.Rig.Fabric.BindAsync(driver, virtio.Name).In();
        await Deadline.UntilAsync(() => VirtioPciAdmin.HasLegacyIo(host.Function), "the commands");
        Assert.NotEqual(0xFFFFFFFF, pci.GetRegion(0).Read32(0));
        await host.ExchangeAsync(guest, 50);
    }

    [Fact]
    public async Task Physical_function_that_is_reset_is_a_device_to_begin_anew_with()
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        await using var guest = await host.ConnectAsync(isLegacy: true);
        await host.ExchangeAsync(guest, 50);
        await PciReset.ResetAsync(host.Physical).In();
        await host.Rig.Fabric.SettleAsync().In();
        await guest.BootAsync();
        await host.ExchangeAsync(guest, 50);
    }

    [Fact]
    public async Task Physical_function_that_is_pulled_takes_the_machine_s_with_it()
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        await using var guest = await host.ConnectAsync(isLegacy: true);
        await host.ExchangeAsync(guest, 50);
        await host.Rig.Base.Pci.SurpriseRemoveAsync(host.Physical).In();
        await Deadline.UntilAsync(() => NetSubsystem.Of(guest.Rig.Fabric).Class.Devices.Count == 0, "the interface's end");
        Assert.False(host.Offered.IsOpen);
        Assert.DoesNotContain(host.Rig.Base.Log.Lines, static l => l.StartsWith("Error", StringComparison.Ordinal));
    }
}
