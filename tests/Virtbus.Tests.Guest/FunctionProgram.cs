using System.Diagnostics;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>guest/vf_test.c, compiled for guests, and the shell functions with which their scripts use it.</summary>
internal static class FunctionProgram
{
    private const int Block = 4096;
    // Compiled once, when a test first needs it.
    private static readonly Task<byte[]> _bytes = CompileAsync();

    /// <summary>
    /// The begin of a script: takes the program from standard input, finds the virtual functions ($first, $second), and has functions to give
    /// one to a driver of the guest.
    /// </summary>
    public static async Task<string> PreludeAsync() => $$"""
        echo send
        dd of=/bin/vf_test bs={{Block}} count={{(await _bytes).Length / Block}} iflag=fullblock
        chmod +x /bin/vf_test
        modprobe -a uio_pci_generic vfio_pci vfio_iommu_type1
        echo 8 >/proc/sys/vm/nr_hugepages
        for device in /sys/bus/pci/devices/*; do
            case $(cat $device/vendor)$(cat $device/device) in
            0x56420x1002) [ "$first" ] && second=${device##*/} || first=${device##*/} ;;
            esac
        done
        give() {
            [ ! -e /sys/bus/pci/devices/$1/driver ] || echo $1 >/sys/bus/pci/devices/$1/driver/unbind
            echo $2 >/sys/bus/pci/devices/$1/driver_override
            echo $1 >/sys/bus/pci/drivers_probe
            [ "$(basename $(readlink /sys/bus/pci/devices/$1/driver))" = $2 ]
        }
        by_hand() { give $1 uio_pci_generic; setpci -s $1 COMMAND=6:6; }

        """;

    /// <summary>Sends the program to a guest whose script has the prelude, once the guest is there: what is sent during a reboot is lost.</summary>
    public static async Task SendAsync(Guest guest)
    {
        await guest.SeeAsync("send");
        await guest.TellAsync(await _bytes);
    }

    private static async Task<byte[]> CompileAsync()
    {
        var folder = Directory.CreateTempSubdirectory("vb").FullName;
        try
        {
            using var deadline = new CancellationTokenSource(TestFabric.Deadline);
            var program = Path.Combine(folder, "vf_test");
            var source = Path.Combine(AppContext.BaseDirectory, "guest", "vf_test.c");
            using var gcc = Process.Start(new ProcessStartInfo("gcc", ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, source])
            {
                RedirectStandardError = true,
                UseShellExecute = false,
            })!;
            var errors = await gcc.StandardError.ReadToEndAsync(deadline.Token);
            await gcc.WaitForExitAsync(deadline.Token);
            Assert.True(gcc.ExitCode == 0, errors);
            var bytes = await File.ReadAllBytesAsync(program, deadline.Token);
            // To whole blocks, as the guest takes it.
            Array.Resize(ref bytes, (bytes.Length + Block - 1) / Block * Block);
            return bytes;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
