using System.Globalization;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;

namespace FrameDriver;

/// <summary>A driver in user space: opens a function that is a network interface, sends frames and takes those that come.</summary>
internal static class Program
{
    private static async Task<int> Main(string[] words)
    {
        if (words is not [var provider, var name, var modules, ("send" or "echo") and var verb, var number] || !int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out var count))
        {
            await Console.Error.WriteLineAsync("usage: frame_driver (vfio-user SOCKET | host ADDRESS) MODULES (send | echo) COUNT");
            return 2;
        }

        try
        {
            await using var fabric = new UserFabric(modules);
            var device = fabric.InterfaceOf(await fabric.OpenAsync(provider, name));
            await device.SetUpAsync(true);
            Console.WriteLine($"{device.Name} {NetDevice.FormatAddress(device.Address)}");
            using var frames = new FrameExchange(device);
            if (verb == "echo")
            {
                frames.Echo(count);
                Console.WriteLine($"{count} frames sent back");
            }
            else
            {
                Console.WriteLine($"{count} frames of 60 to {frames.Send(count)} bytes came back as they went");
            }

            return 0;
        }
        catch (VirtbusException e)
        {
            await Console.Error.WriteLineAsync($"frame_driver: {e.Message}");
            return 1;
        }
    }
}
