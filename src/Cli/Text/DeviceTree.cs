using Virtbus.Daemon.Api;

namespace Virtbus.Cli.Text;

/// <summary>The devices of a fabric as a tree with a column each for bus, state and driver.</summary>
internal static class DeviceTree
{
    public static void Write(TextWriter writer, IReadOnlyList<DeviceAnswer> roots)
    {
        var table = new Table("DEVICE", "BUS", "STATE", "DRIVER");
        foreach (var root in roots)
            Add(table, root, "", "");
        table.WriteTo(writer);
    }

    /// <summary>State in one phrase, as people read it: "bound to nic_net, suspended".</summary>
    public static string StateWithDriver(DeviceAnswer device) => Phrase(device, device.Driver is { } driver ? $"{device.State} to {driver}" : device.State);

    /// <summary>State in one phrase beside a column for the driver: "bound, suspended".</summary>
    public static string State(DeviceAnswer device) => Phrase(device, device.State);

    /// <summary>The name, with the label of what is named by its place: "0000:01:00.0 (adapter0)".</summary>
    public static string Name(DeviceAnswer device) => device.Label is { } label ? $"{device.Name} ({label})" : device.Name;

    private static string Phrase(DeviceAnswer device, string? state)
    {
        state = device.Deferred is { } reason ? $"{state}: {reason}" : state ?? "";
        if (device.Power == "on")
            return state;
        return state.Length == 0 ? device.Power : $"{state}, {device.Power}";
    }

    private static void Add(Table table, DeviceAnswer device, string branch, string below)
    {
        table.Add(branch + Name(device), device.Bus ?? device.Class, State(device), device.Driver);
        var children = device.Children ?? [];
        for (var i = 0; i < children.Count; i++)
        {
            var last = i == children.Count - 1;
            Add(table, children[i], below + (last ? "└─ " : "├─ "), below + (last ? "   " : "│  "));
        }
    }
}
