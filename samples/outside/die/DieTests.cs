using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Testing;
using Virtbus.Virtio.Rings;
using Xunit;

namespace Die;

public sealed class DieTests
{
    // The clock is the test's: nothing here waits for a second.
    [Fact]
    public async Task Driver_gets_an_interrupt_when_the_die_has_stopped()
    {
        await using var world = await FabricRig.StartAsync();
        var driver = await world.RegisterDriverAsync("die", new PciDeviceId(DieFunction.Vendor, DieFunction.Device));
        var device = await world.PlugAsync(new DieFunction(world.Time, seed: 7));
        Assert.Same(driver, device.Driver);
        Assert.Equal([$"die probe {device.Name}"], world.Calls);
        var stopped = 0;
        device.AllocateVectors(1, 1, PciInterruptKinds.MsiX)[0].SetHandler(() => stopped++);
        var registers = device.GetRegion(0);
        registers.Write32(DieFunction.Roll, 1);
        world.Time.Advance(TimeSpan.FromSeconds(0.9));
        Assert.Equal((0, 0u), (stopped, registers.Read32(DieFunction.Result)));
        world.Time.Advance(TimeSpan.FromSeconds(0.1));
        Assert.Equal(1, stopped);
        Assert.InRange(registers.Read32(DieFunction.Result), 1u, 6u);
    }

    [Fact]
    public async Task User_of_the_function_finds_it_reset()
    {
        await using var world = await FabricRig.StartAsync();
        var device = await world.PlugAsync(new DieFunction(world.Time, seed: 7));
        for (var round = 0; round < 2; round++)
        {
            using var user = await world.OpenAsync(device);
            var bytes = new byte[4];
            // The command register, in config space, which is region 7: memory decodes.
            Assert.True(user.TryWrite(7, 4, [2, 0], out var fault), fault.Message);
            Assert.True(user.TryRead(0, DieFunction.Rolls, bytes, out fault), fault.Message);
            Assert.Equal(0u, BitConverter.ToUInt32(bytes));
            Assert.True(user.TryWrite(0, DieFunction.Roll, [1, 0, 0, 0], out fault), fault.Message);
            Assert.True(user.TryRead(0, DieFunction.Rolls, bytes, out fault), fault.Message);
            Assert.Equal(1u, BitConverter.ToUInt32(bytes));
        }
    }

    [Fact]
    public void Dice_fill_what_the_driver_gives_them()
    {
        using var device = new DiceDevice(seed: 7);
        using var driver = new VirtioModelDriver(device);
        var buffer = driver.Take(100);
        Assert.Equal(100u, driver.Request(new DriverBuffer(buffer, 100, DeviceWrites: true)));
        var dice = new byte[100];
        driver.Read(buffer, dice);
        Assert.All(dice, die => Assert.InRange(die, 1, 6));
        // After a reset as before it.
        driver.Restart();
        buffer = driver.Take(1);
        Assert.Equal(1u, driver.Request(new DriverBuffer(buffer, 1, DeviceWrites: true)));
    }

    [Fact]
    public void Ring_that_a_driver_broke_is_told()
    {
        using var device = new DiceDevice(seed: 7);
        using var driver = new VirtioModelDriver(device);
        // An address that is nobody's.
        var e = Assert.Throws<ExpectationException>(() => driver.Request(new DriverBuffer(new Virtbus.Memory.Iova(0xDEAD0000), 16, DeviceWrites: true)));
        Assert.Contains("needs a reset", e.Message);
    }

    // The back end that fails on purpose: what a driver sees of a disk that is going.
    [Fact]
    public void Disk_that_fails_a_write_says_so_and_takes_the_next_one()
    {
        using var medium = new MemoryBackend(1 << 20);
        using var failing = new FaultyBackend(medium, new FaultPlan { Fail = 1, Where = request => request.Operation == BlockOperation.Write });
        using var disk = new VirtioBlkDevice("disk", failing, "DIE");
        using var user = new VirtioBlkUser(disk);
        var sector = Enumerable.Repeat((byte)6, 512).ToArray();
        Assert.Equal(VirtioBlkConfig.VIRTIO_BLK_S_IOERR, user.Write(0, sector));
        failing.Plan = new FaultPlan();
        Assert.Equal(VirtioBlkConfig.VIRTIO_BLK_S_OK, user.Write(0, sector));
        Assert.Equal(VirtioBlkConfig.VIRTIO_BLK_S_OK, user.Flush());
        var read = new byte[512];
        Assert.Equal(VirtioBlkConfig.VIRTIO_BLK_S_OK, user.Read(0, read));
        Assert.Equal(sector, read);
    }

    [Fact]
    public async Task Call_that_is_refused_says_why()
    {
        await using var world = await FabricRig.StartAsync();
        var device = await world.PlugAsync(new DieFunction(world.Time, seed: 7));
        using var first = await world.OpenAsync(device);
        var e = await Assert.ThrowsAsync<ExpectationException>(() => world.OpenAsync(device, "another"));
        Assert.Contains(device.Name, e.Message);
        Assert.Equal(Errno.EINVAL, Expect.Refused(Errno.EINVAL, () => throw new VirtbusException(Errno.EINVAL, "no")).Errno);
    }
}
