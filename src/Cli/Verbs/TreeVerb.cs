using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;

namespace Virtbus.Cli.Verbs;

internal static class TreeVerb
{
    public static Command Make() => CommandLine.Asking("tree", "Show the devices, their states and drivers as a tree.", static (_, client, output) =>
    {
        output.Print(client.Ask("GET", "/v1/topology"), ApiJson.Default.IReadOnlyListDeviceAnswer, DeviceTree.Write);
        return ExitCode.Done;
    });
}
