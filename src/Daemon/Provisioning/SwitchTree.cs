using Virtbus.Core;
using Virtbus.Ethernet;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// What is counted at the ports of the named switches, in the tree: <c>/kernel/switches/NAME/ports/PORT/</c>. A port is called after its device, adapter or
/// TAP interface.
/// </summary>
internal static class SwitchTree
{
    private static readonly ObjectAttribute<SwitchPort>[] Counters =
    [
        new("dropped", static p => $"{p.Sink.Dropped}"),
        new("filtered", static p => $"{p.Filtered}"),
        new("malformed", static p => $"{p.Malformed}"),
    ];

    /// <summary>Makes the directory <c>switches</c>, for <see cref="FabricTree.AddKernelDirectory"/>.</summary>
    /// <param name="switches">The switches.</param>
    public static TreeDirectory Make(NamedSwitches switches) =>
        new("switches", () => switches.Names.Select(name => new TreeDirectory(name, () => [new TreeDirectory("ports", () => ListPorts(switches, name))])));

    private static IEnumerable<TreeNode> ListPorts(NamedSwitches switches, string name)
    {
        // An interface may have the name of a device: the second of them is told apart by its number.
        foreach (var ports in (switches.Find(name)?.Ports ?? []).Where(static p => p.Name.Length > 0).GroupBy(static p => p.Name, StringComparer.Ordinal))
        {
            var number = 0;
            foreach (var port in ports)
            {
                var file = number++ == 0 ? port.Name : $"{port.Name}.{number}";
                yield return new TreeDirectory(file, () => Counters.Select(a => new TreeFile($"/kernel/switches/{name}/ports/{file}/{a.Name}", port, a)));
            }
        }
    }
}
