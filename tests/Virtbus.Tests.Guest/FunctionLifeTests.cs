using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>A virtual function goes from driver to driver while a guest has it and while none has, and guests die under it.</summary>
public sealed class FunctionLifeTests
{
    [Fact]
    public async Task Function_moves_between_its_own_driver_and_those_for_guests_with_a_guest_attached_and_without()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(FunctionTests.Manifest);
        Assert.Equal("0000:01:00.1: bound to merlin_core\n", await fabric.OkAsync("driver", "override", "adapter0v0", "--clear"));
        Assert.Contains("driver merlin_core has it", await fabric.RefusedAsync("vm", "adapter0v0", "--", "true"), StringComparison.Ordinal);
        Assert.Matches("merlin-vfio-pci +merlin_vfio_pci is made for this device.*\nvfio-pci +vfio_pci takes any PCI device", await fabric.OkAsync("driver", "suggest", "adapter0v0"));
        Assert.Equal("0000:01:00.1: bound to merlin-vfio-pci\n", await fabric.OkAsync("driver", "override", "adapter0v0", "merlin-vfio-pci"));

        // The variant's function works like any; the guest has it when it is asked back.
        var guest = await StartAsync(fabric);
        Assert.Contains("Device 'adapter0v0' is in use", await fabric.RefusedAsync("vm", "adapter0v0", "--", "true"), StringComparison.Ordinal);
        var unbind = fabric.Start("driver", "unbind", "adapter0v0");
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var message = await unbind.StandardError.ReadLineAsync(deadline.Token);
        Assert.Matches(@"Device 0000:01:00\.1 is open by process [0-9]+ \(qemu-virtbus\) on .*0000:01:00\.1\.sock\. It is asked to let go", message!);
        Assert.False(unbind.HasExited);
        await guest.TellAsync("end");
        Assert.Empty(await guest.EndAsync());
        Assert.Equal("0000:01:00.1: unbound\n", await unbind.StandardOutput.ReadToEndAsync(deadline.Token));
        await unbind.WaitForExitAsync(deadline.Token);
        Assert.Equal(0, unbind.ExitCode);

        // Taken away from a guest, which lives on. The fabric goes down in order although the guest still has another device.
        await fabric.OkAsync("driver", "override", "adapter0v0", "vfio-pci");
        guest = await StartAsync(fabric, "serial0");
        Assert.Equal("0000:01:00.1: bound to merlin_core\n", await fabric.OkAsync("driver", "override", "adapter0v0", "--clear", "--force"));
        await fabric.OkAsync("down");
        await guest.TellAsync("end");
        Assert.Empty(await guest.EndAsync());
    }

    [Fact]
    public async Task Daemon_lets_go_of_a_guest_that_is_killed_or_panics_with_DMA_in_the_air()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(FunctionTests.Manifest);
        using var log = new DaemonLog(fabric);
        var daemon = await Holdings.DaemonOfAsync(fabric);
        // The first guest makes the daemon open what it keeps.
        await EndAsync(guest => guest.KillAsync());
        var before = Holdings.Of(daemon);
        Assert.DoesNotContain(Holdings.GuestMemory, before.Keys);
        await EndAsync(guest =>
        {
            guest.KillQemu();
            return guest.DieAsync();
        });
        Assert.Equal(before, Holdings.Of(daemon));
        await EndAsync(async guest =>
        {
            await guest.TellAsync("panic");
            Assert.Contains("Kernel panic", await guest.DieAsync(), StringComparison.Ordinal);
        });
        Assert.Equal(before, Holdings.Of(daemon));
        var last = Guest.Start(fabric, await FunctionProgram.PreludeAsync() + "by_hand $first; vf_test idle $first; vf_test phys $first", "adapter0v0");
        await FunctionProgram.SendAsync(last);
        Assert.Equal(["idle", "registers 06000000aa01", "commands", "copies", "done"], await last.EndAsync());
        await log.SeeGoneAsync();
        Assert.Equal(before, Holdings.Of(daemon));

        async Task EndAsync(Func<Guest, Task> end)
        {
            var guest = await StartAsync(fabric);
            Assert.Contains(Holdings.GuestMemory, Holdings.Of(daemon).Keys);
            await end(guest);
            await log.SeeGoneAsync();
        }
    }

    // The function works without end, so DMA is in the air whatever happens to it.
    private static async Task<Guest> StartAsync(TestFabric fabric, params string[] devices)
    {
        var guest = Guest.Start(fabric, await FunctionProgram.PreludeAsync() + "by_hand $first\nvf_test loop $first &\nread -r what\n[ $what = end ] || echo c >/proc/sysrq-trigger\n", ["adapter0v0", .. devices]);
        await FunctionProgram.SendAsync(guest);
        await guest.SeeAsync("running");
        return guest;
    }
}
