using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>A guest whose driver knows old registers only, and one with a new driver, on virtual functions that are modern only (VV-01, VV-03, TD-06).</summary>
public sealed class VirtioVfioGuestTests
{
    private const string Variant = "virtio-vfio-pci";

    // The PCI ids that the driver found, and whether it took VERSION_1, bit 32.
    private const string Describe = "lspci -n -s $fn | cut -d ' ' -f 3-; cut -c 33 </sys/class/net/$dev/device/features; ";

    [Fact]
    public async Task Guests_with_an_old_and_a_new_driver_talk_over_functions_that_are_modern_only_and_after_a_reboot()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("functions:\n  - { name: nic, virtio: net, vfs: 2, queues: 2, driver: virtio-pci }\n");
        foreach (var function in new[] { "nicv0", "nicv1" })
            Assert.EndsWith($": bound to {Variant}\n", await fabric.OkAsync("driver", "override", function, Variant), StringComparison.Ordinal);
        var old = Guest.Start(fabric, await NetTests.ScriptAsync(1), "nicv0", "--legacy", "--reboot");
        var current = Guest.Start(fabric, await NetTests.ScriptAsync(2), "nicv1");
        await NetTests.ReadyAsync(old, current);
        await current.TellAsync(Describe);
        await current.SeeAsync("1af4:1000", "1");
        for (var boot = 0; boot < 2; boot++)
        {
            await old.TellAsync($"{Describe} grep -c 'virtio.*-input' /proc/interrupts; net_test serve 5001 {NetTests.GiB >> 5} 2");
            await old.SeeAsync("1af4:1000", "0", "2", "listening");
            await current.TellAsync($"net_test talk 10.0.0.1 5001 {NetTests.GiB >> 5} 2");
            await current.SeeAsync("same");
            await old.SeeAsync("same");
            if (boot > 0)
                continue;
            await old.TellAsync("reboot -f");
            await NetTests.ReadyAsync(old);
        }

        await NetTests.EndAsync(old, current);
    }
}
