using System.Text.RegularExpressions;

namespace Virtbus.Tests.House;

/// <summary>What has one place in the source: rules that stand once, and words that a floor does not know.</summary>
public sealed partial class OnceTests
{
    [Fact]
    public void Core_has_no_word_of_the_buses_and_subsystems_above_it() =>
        Assert.Empty(Lines("Core").Where(l => WordsAbove().IsMatch(l.Text)).Select(static l => l.Place));

    [Fact]
    public void Rule_of_module_names_stands_once() =>
        Assert.Equal(["Platform/ModuleName.cs"], Lines("").Where(static l => l.Text.Contains("Replace('-', '_')", StringComparison.Ordinal) || l.Text.Contains("Replace('_', '-')", StringComparison.Ordinal))
            .Select(static l => l.File).Distinct());

    [Fact]
    public void Rule_of_overrides_stands_once() =>
        Assert.Empty(Lines("").Where(static l => OverrideCompared().IsMatch(l.Text) && l.File != "Core/Drivers/OverrideRule.cs").Select(static l => l.Place));

    // The others wait for one answer, one turn, one job, memory that comes back, text of a line or what is being closed; users that leave are waited for by the gate.
    [Fact]
    public void Users_are_counted_and_drained_by_one_gate() =>
        Assert.Equal(
            [
                "Block/FileWorkers.cs", "Drivers/NicRings/NicChannel.cs", "Drivers/VirtioPci/VirtioPciAdminMonitor.cs",
                "Hardware/Probe/ScratchEngine.cs", "Platform/PeerDescriptors.cs",
                "Platform/Polling/PollSeat.cs", "Platform/UseGate.cs", "Subsystems/Tty/TtyUser.cs", "Virtio/Rings/FarMemory.cs", "Wire/VfioUser/VfioUserChannel.cs",
            ],
            Lines("").Where(static l => l.Text.Contains("Monitor.Wait(", StringComparison.Ordinal)).Select(static l => l.File).Distinct().Order(StringComparer.Ordinal));

    // A PCI access: the bus. What has no bus behind it is asked for by others: VfioHandle for such devices, the image of config space for itself.
    [Fact]
    public void Range_of_a_register_access_is_checked_by_the_bus_alone() =>
        Assert.Equal(
            ["Buses/Pci/PciHardware.cs", "Drivers/VfioPciCore/VfioPciConfig.cs", "Subsystems/Vfio/VfioHandle.cs"],
            Lines("").Where(static l => RangeChecked().IsMatch(l.Text)).Select(static l => l.File)
                .Where(static f => f.StartsWith("Buses/Pci/", StringComparison.Ordinal) || f.StartsWith("Pci/Functions/", StringComparison.Ordinal)
                    || f.StartsWith("Drivers/VfioPciCore/", StringComparison.Ordinal) || f == "Subsystems/Vfio/VfioHandle.cs").Distinct().Order(StringComparer.Ordinal));

    private static IEnumerable<(string File, string Text, string Place)> Lines(string floor)
    {
        var source = Path.Combine(LayeringTests.RepositoryRoot(), "src");
        string[] files = [.. Directory.EnumerateFiles(Path.Combine(source, floor), "*.cs", SearchOption.AllDirectories)];
        Assert.True(files.Length > 30);
        foreach (var file in files)
        {
            var name = Path.GetRelativePath(source, file);
            var number = 0;
            foreach (var line in File.ReadLines(file))
                yield return (name, line, $"{name}:{++number}");
        }
    }

    [GeneratedRegex("pci|vfio|vdpa|vhost|sriov|iommu", RegexOptions.IgnoreCase, matchTimeoutMilliseconds: 1000)]
    private static partial Regex WordsAbove();

    // Length against what is left behind the offset.
    [GeneratedRegex(@"(length|Length)\)? (<=|>) .*[Ss]ize - offset", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex RangeChecked();

    // The override of a device held against a driver's name.
    [GeneratedRegex(@"DriverOverride\s*(==|!=)|(==|!=)\s*\w*\.DriverOverride|DriverOverride is \{ \} ", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex OverrideCompared();
}
