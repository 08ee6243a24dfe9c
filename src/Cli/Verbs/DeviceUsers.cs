using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

/// <summary>Virtual machines and programs that have a device open, which keeps it from being unbound or removed.</summary>
internal static class DeviceUsers
{
    /// <summary>
    /// Says who has a device, one below it or a virtual function of it open and how that ends, since what is asked for next waits for it; or takes the device away from
    /// them.
    /// </summary>
    /// <param name="client">The fabric.</param>
    /// <param name="device">The device.</param>
    /// <param name="force">Whether to take it away.</param>
    /// <param name="what">What is to be done to the device, in the words of a message.</param>
    /// <param name="beforehand">Called once before the first of them, if there are any; what it throws keeps them from being asked.</param>
    public static void AskToLeave(ControlClient client, DeviceAnswer device, bool force, string what, Action? beforehand = null)
    {
        string[] below = [device.Path + "/", .. VfVerbs.Links(client, device).Select(path => path + "/")];
        foreach (var (vfio, user) in All(client))
        {
            if (!below.Any(folder => vfio.Path.StartsWith(folder, StringComparison.Ordinal)))
                continue;
            beforehand?.Invoke();
            beforehand = null;
            if (force)
            {
                client.Write(vfio.Path + "/revoke", "1");
                continue;
            }
            var label = Read(client, vfio.Path + "/label");
            Console.Error.WriteLine(
                $"virtbus: Device {label} is open by {user} on {Read(client, vfio.Path + "/socket")}. It is asked to let go, and {device.Name} is {what} when it has. "
                + $"End it to get on, or take the device away with 'virtbus driver unbind {label} --force'; Ctrl-C only ends the waiting here.");
        }
    }

    private static IEnumerable<(DeviceAnswer Device, string User)> All(ControlClient client) =>
        from vfio in client.Ask("GET", "/v1/devices", ApiJson.Default.IReadOnlyListDeviceAnswer)
        where vfio.Class == "vfio-dev"
        let user = Read(client, vfio.Path + "/user")
        where user.Length > 0
        select (vfio, user);

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
