using FrameDriver;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;
using Virtbus.Virtio;

namespace Virtbus.Tests.Guest.Module;

/// <summary>
/// Runs in a guest, on functions that its kernel's vfio-pci has: <c>real_driver MODULES WHAT ADDRESS [WHAT ADDRESS]...</c>. What it finds is a line each, for the
/// test to look at.
/// </summary>
internal static class Program
{
    private const int Frames = 8;

    private static async Task<int> Main(string[] words)
    {
        await using var fabric = new UserFabric(words[0]);
        await fabric.Fabric.RegisterDriverAsync(new PlainDriver(fabric.Pci));
        for (var i = 1; i < words.Length; i += 2)
        {
            try
            {
                await RunAsync(fabric, words[i], words[i + 1]);
            }
            catch (VirtbusException e)
            {
                Console.WriteLine($"{words[i]} {e.Errno}: {e.Message}");
            }
        }

        return 0;
    }

    private static async Task RunAsync(UserFabric fabric, string what, string address)
    {
        var device = await fabric.OpenAsync("host", address);
        switch (what)
        {
            case "edu":
                var edu = new Edu(device);
                edu.Run(PciInterruptKinds.Msi);
                edu.Run(PciInterruptKinds.INTx);
                break;
            case "testdev":
                var counter = new TestDevice(device);
                counter.Run(0);
                counter.Run(1);
                break;
            case "net":
                Exchange(fabric, device);
                // Another opening finds it as new.
                await fabric.Pci.UnplugAsync(device);
                device = await fabric.OpenAsync("host", address);
                Exchange(fabric, device);
                break;
            case "blk":
                using (var disk = new Disk(BlockSubsystem.Of(fabric.Fabric).Class.Devices.OfType<BlockDevice>().Single()))
                    disk.Run(RingsOf(device));
                break;
            case "back":
                // The kernel asks for it, and waits until it has it.
                await Task.Run(() => File.WriteAllText("/sys/bus/pci/drivers/vfio-pci/unbind", address)).WaitAsync(TimeSpan.FromSeconds(60));
                await fabric.Fabric.SettleAsync();
                Console.WriteLine($"back {fabric.Pci.Find(device.Address) is null}");
                return;
        }

        await fabric.Pci.UnplugAsync(device);
    }

    private static void Exchange(UserFabric fabric, PciDevice device)
    {
        using var frames = new FrameExchange(fabric.InterfaceOf(device));
        Console.WriteLine($"net {RingsOf(device)} {Frames} frames of 60 to {frames.Send(Frames)} bytes");
    }

    private static string RingsOf(PciDevice device) =>
        device.Children.OfType<VirtioBusDevice>().Single().Has(VirtioFeatures.VIRTIO_F_RING_PACKED) ? "packed" : "split";
}
