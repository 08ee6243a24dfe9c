using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

/// <summary>Virtual machines and programs that have a device open, which keeps it from being unbound or removed.</summary>
internal static class DeviceUsers
{
    /// <summary>
    /// Says who has a device or one below it open and how that ends, since what is asked for next waits for it; or takes the device away from
    /// them.
    /// </summary>
    /// <param name="client">The fabric.</param>
    /// <param name="device">The device.</param>
    /// <param name="force">Whether to take it away.</param>
    /// <param name="what">What is to be done to the device, in the words of a message.</param>
    public static void AskToLeave(ControlClient client, DeviceAnswer device, bool force, string what)
    {
        var below = device.Path + "/";
        foreach (var vfio in client.Ask("GET", "/v1/devices", ApiJson.Default.IReadOnlyListDeviceAnswer))
        {
            if (vfio.Class != "vfio-dev" || !vfio.Path.StartsWith(below, StringComparison.Ordinal) || Read(client, vfio.Path + "/user") is not { Length: > 0 } user)
                continue;
            if (force)
            {
                client.Write(vfio.Path + "/revoke", "1");
                continue;
            }
            Console.Error.WriteLine(
                $"virtbus: Device {Read(client, vfio.Path + "/label")} is open by {user} on {Read(client, vfio.Path + "/socket")}. It is asked to let go, and {device.Name} is {what} when it has. "
                + "End it to get on, or take the device away with --force; Ctrl-C only ends the waiting here.");
        }
    }

    private static string Read(ControlClient client, string path)
    {
        try
        {
            return client.Ask("GET", ControlClient.Query("/v1/tree", ("path", path)), ApiJson.Default.NodeAnswer).Value?.TrimEnd('\n') ?? "";
        }
        catch (VirtbusException e) when (e.Errno is Errno.ENOENT or Errno.ENODEV)
        {
            // It went away meanwhile, which is what is wanted.
            return "";
        }
    }
}
