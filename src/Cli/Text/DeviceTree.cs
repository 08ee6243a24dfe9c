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

    /// <summary>State in one word or phrase, as people read it.</summary>
    public static string State(DeviceAnswer device)
    {
        var state = device.Deferred is { } reason ? $"{device.State}: {reason}" : device.State ?? "";
        if (device.Power == "on")
            return state;
        return state.Length == 0 ? device.Power : $"{state}, {device.Power}";
    }

    private static void Add(Table table, DeviceAnswer device, string branch, string below)
    {
        table.Add(branch + device.Name, device.Bus ?? device.Class, State(device), device.Driver);
        var children = device.Children ?? [];
        for (var i = 0; i < children.Count; i++)
        {
            var last = i == children.Count - 1;
            Add(table, children[i], below + (last ? "└─ " : "├─ "), below + (last ? "   " : "│  "));
        }
    }
}
