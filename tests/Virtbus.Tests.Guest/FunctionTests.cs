using System.Text.RegularExpressions;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>A guest drives virtual functions of an adapter from its user space: BARs, DMA both ways, MSI-X, resets.</summary>
public sealed class FunctionTests
{
    private const string FirstMac = "06:00:00:00:aa:01";
    private const string SecondMac = "06:00:00:00:aa:02";

    /// <summary>An adapter with two virtual functions that guests can have, and a serial port.</summary>
    public const string Manifest = $$"""
        adapters:
          - name: adapter0
            model: merlin
            vfs: 2
            vf_profiles:
              - { vf: 0, mac: "{{FirstMac}}", driver: vfio-pci }
              - { vf: 1, mac: "{{SecondMac}}", driver: vfio-pci }
        serials:
          - { name: serial0 }

        """;

    private static readonly string[] PhysicalLines = ["registers 06000000aa01", "commands", "copies", "registers 06000000aa02", "commands", "copies", "frames", "done"];
    private static readonly string[] VfioLines = [.. PhysicalLines[..^1], "unmap", "reset", "done"];

    [Fact]
    public async Task Card_of_a_module_is_seen_in_a_guest()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync($$"""
            modules: [{{TestFabric.TutorialModules}}, tally_card]
            functions:
              - { name: tally0, provider: tally, function: card }
            """);
        Assert.EndsWith(": bound to vfio-pci\n", await fabric.OkAsync("driver", "override", "tally0", "vfio-pci"), StringComparison.Ordinal);
        Assert.Equal(["Unassigned class [ff00]: Device [5642:7a11] (rev 01)"], await Guest.RunAsync(fabric, "lspci -nn -d 5642:7a11 | cut -d ' ' -f 2-", "tally0"));
        await fabric.OkAsync("function", "unplug", "tally0");
        Assert.Equal("tally_card: unloaded\n", await fabric.OkAsync("module", "unload", "tally_card"));
    }

    [Fact]
    public async Task Guest_drives_two_functions_by_hand_resets_them_and_reboots()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var received = await ReceivedAsync(fabric);
        var guest = Guest.Start(
            fabric,
            await FunctionProgram.PreludeAsync() + """
            lspci -nnk -d 5642: | grep -c 'Ethernet controller \[0200\]: Device \[5642:1002\]'
            lspci -nnk -d 1b36:0002 | grep 'driver in use'
            lspci -nnvv -s $first | grep -oE 'MSI-X: .*|FLReset\+'
            by_hand $first
            by_hand $second
            vf_test idle $first
            vf_test phys $first $second
            vf_test start $first
            vf_test idle $first
            echo 1 >/sys/bus/pci/devices/$first/reset
            vf_test idle $first
            vf_test start $second
            echo end
            read what || exit 0
            reboot -f
            """,
            "adapter0v0",
            "serial0",
            "adapter0v1",
            "--reboot");
        for (var boot = 0; boot < 2; boot++)
        {
            await FunctionProgram.SendAsync(guest);
            // The reboot resets what the first boot left enabled.
            await guest.SeeAsync("2", "\tKernel driver in use: serial", "FLReset+", "MSI-X: Enable- Count=32 Masked-", "idle");
            await guest.SeeAsync(PhysicalLines);
            await guest.SeeAsync("started", "busy", "idle", "started", "end");
            if (boot == 0)
                await guest.TellAsync("reboot");
        }
        await guest.EndAsync();
        // The guest's broadcasts came to the host's side of the adapter.
        Assert.True(await ReceivedAsync(fabric) > received);
    }

    [Fact]
    public async Task Guest_drives_two_functions_by_its_own_vfio_behind_its_own_IOMMU_with_MSI_X()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var guest = Guest.Start(
            fabric,
            await FunctionProgram.PreludeAsync() + """
            give $first vfio-pci
            give $second vfio-pci
            vf_test vfio $first $second
            # A second opening finds them as new.
            vf_test vfio $second
            echo 1 >/sys/bus/pci/devices/$first/reset
            """,
            "adapter0v0",
            "adapter0v1",
            "--viommu");
        await FunctionProgram.SendAsync(guest);
        await guest.SeeAsync(VfioLines);
        await guest.SeeAsync("registers 06000000aa02", "commands", "copies", "unmap", "reset", "done");
        await guest.EndAsync();
    }

    [Fact]
    public async Task Functions_reach_the_memory_of_a_guest_that_shares_none_by_messages()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var guest = Guest.Start(
            fabric,
            await FunctionProgram.PreludeAsync() + """
            by_hand $first
            by_hand $second
            vf_test phys $first $second
            """,
            "adapter0v0",
            "adapter0v1",
            "--no-shared-memory");
        await FunctionProgram.SendAsync(guest);
        await guest.SeeAsync(PhysicalLines);
        var daemon = await Holdings.DaemonOfAsync(fabric);
        Assert.DoesNotContain(Holdings.GuestMemory, Holdings.Of(daemon).Keys);
        await guest.EndAsync();
    }

    private static async Task<long> ReceivedAsync(TestFabric fabric)
    {
        var counters = await fabric.OkAsync("attr", "get", "/class/net/adapter0np0/statistics/rx_packets");
        return long.Parse(Regex.Match(counters, "[0-9]+", RegexOptions.None, TimeSpan.FromSeconds(1)).Value);
    }
}
