using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

/// <summary>Virtual machines and programs that have a device open, which keeps it from being unbound or removed.</summary>
internal static class DeviceUsers
{
    private const string Vfio = "vfio-dev";
    private const string FrontEnds = "vhost-vdpa";

    /// <summary>
    /// Says who has a device, one below it or a virtual function of it open and how that ends, since what is asked for next waits for it; or takes the device away from
    /// them.
    /// </summary>
    /// <param name="client">The fabric.</param>
    /// <param name="device">The device.</param>
    /// <param name="force">Whether to take it away.</param>
    /// <param name="what">What is to be done to the device, in the words of a message.</param>
    /// <param name="beforehand">Called once before the first of them, if there are any; what it throws keeps them from being asked.</param>
    /// <param name="command">
    /// What takes the device away from a user, for the message. With it those are meant as well who are no reason to wait for an unbind: front ends.
    /// </param>
    public static void AskToLeave(ControlClient client, DeviceAnswer device, bool force, string what, Action? beforehand = null, string? command = null)
    {
        string[] below = [device.Path + "/", .. VfVerbs.Links(client, device).Select(path => path + "/")];
        foreach (var (held, user) in All(client, command is not null))
        {
            if (!below.Any(folder => held.Path.StartsWith(folder, StringComparison.Ordinal)))
                continue;
            beforehand?.Invoke();
            beforehand = null;
            if (force)
            {
                client.Write(held.Path + "/revoke", "1");
                continue;
            }
            var label = Read(client, held.Path + "/label");
            var outcome = held.Class == Vfio ? $"It is asked to let go, and {device.Name} is {what} when it has." : $"{device.Name} is {what} when it has let go.";
            Console.Error.WriteLine(
                $"virtbus: Device {label} is open by {user} on {Read(client, held.Path + "/socket")}. {outcome} "
                + $"End it to get on, or take the device away with '{command ?? $"virtbus driver unbind {label} --force"}'; Ctrl-C only ends the waiting here.");
        }
    }

    private static IEnumerable<(DeviceAnswer Device, string User)> All(ControlClient client, bool withFrontEnds) =>
        from held in client.Ask("GET", "/v1/devices", ApiJson.Default.IReadOnlyListDeviceAnswer)
        where held.Class == Vfio || (withFrontEnds && held.Class == FrontEnds)
        let user = Read(client, held.Path + (held.Class == Vfio ? "/user" : "/peer"))
        where user.Length > 0
        select (held, user);

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
