using System.Security.Cryptography;
using System.Text;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>A guest drives a PCI serial port over vfio-user with the driver that every kernel has: registers in I/O space, and INTx.</summary>
public sealed class SerialTests
{
    private const int TextBytes = 3000;

    [Fact]
    public async Task Guest_finds_its_serial_port_and_text_goes_both_ways_also_after_a_reboot()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("serials:\n  - { name: serial0 }\n");
        var console = new ConsoleClient(fabric, "serial0");
        // Each boot says what it found and answers one line.
        var guest = Guest.Start(
            fabric,
            """
            lspci -nnk -d 1b36:0002
            for folder in /sys/bus/pci/devices/*/tty/ttyS*; do
                port=/dev/${folder##*/}
            done
            stty -F $port raw -echo 115200
            exec 3<>$port
            echo ready
            read -r text <&3
            printf '%s\n' "$text" | sha256sum
            printf '%s\n' "$text" >&3
            [ $(grep -c "ttyS${port#/dev/ttyS}" /proc/interrupts) = 1 ] && echo interrupts
            exec 3>&-
            read -r what || exit 0
            reboot -f
            """,
            "serial0",
            "--reboot");
        for (var boot = 0; boot < 2; boot++)
        {
            await guest.SeeAsync("00:02.0 Serial controller [0700]: Red Hat, Inc. QEMU PCI 16550A Adapter [1b36:0002] (rev 01)");
            await guest.SeeAsync("\tSubsystem: Red Hat, Inc. QEMU Virtual Machine [1af4:1100]");
            await guest.SeeAsync("\tKernel driver in use: serial");
            await guest.SeeAsync("ready");
            var text = Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(TextBytes / 2));
            await console.SayAsync(text);
            await guest.SeeAsync($"{Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(text + "\n")))}  -");
            Assert.Equal(text, await console.HearAsync());
            await guest.SeeAsync("interrupts");
            if (boot == 0)
                await guest.TellAsync("reboot");
        }
        await guest.EndAsync();
    }
}
