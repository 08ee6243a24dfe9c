using System.CommandLine;

namespace Virtbus.Cli.Verbs;

internal static class PowerVerbs
{
    public static Command Make() => CommandLine.Group(
        "power",
        "Put devices to sleep and wake them.",
        Change("suspend", "Suspend a device, what is below it and what depends on these.", "suspend"),
        Change("resume", "Wake what 'suspend' put to sleep.", "on"));

    private static Command Change(string name, string description, string state)
    {
        var argument = Names.Device();
        return CommandLine.Asking(
            name,
            description,
            (result, client, output) =>
            {
                var device = DeviceVerbs.Find(client, result.GetRequiredValue(argument));
                client.Write(device.Path + "/power/state", state);
                DeviceVerbs.PrintAgain(client, output, device);
                return ExitCode.Done;
            },
            argument);
    }
}
