using System.Diagnostics;
using System.Text.RegularExpressions;
using Virtbus.Vm;

namespace Virtbus.Tests.Vm;

/// <summary>The command line that a person is shown, in the pages and by --print.</summary>
public sealed partial class CommandLineTests
{
    private const string Runtime = "/run/virtbus";

    public static TheoryData<string, string, string, string> Examples { get; } =
    [
        .. Directory.EnumerateFiles(Path.Combine(Root(), "docs"), "*.md").Order(StringComparer.Ordinal).SelectMany(page => Blocks().Matches(File.ReadAllText(page)).Select(m =>
            (Path.GetFileName(page), m.Groups["driver"].Value, m.Groups["name"].Value, m.Groups["text"].Value))),
    ];

    [Fact]
    public void Each_kind_of_device_has_a_command_line_in_the_pages() =>
        Assert.Equal(
            Enum.GetValues<VmDeviceKind>().Select(QemuFinder.DeviceName).Order(StringComparer.Ordinal),
            Examples.Select(e => e.Data.Item2).Distinct().Order(StringComparer.Ordinal));

    [Theory]
    [MemberData(nameof(Examples))]
    public async Task Command_line_of_a_page_has_what_print_says(string page, string driver, string name, string text)
    {
        var kind = Enum.GetValues<VmDeviceKind>().Single(k => QemuFinder.DeviceName(k) == driver);
        var options = new VmOptions { Devices = [new VmDevice(name, kind, $"{Runtime}/{name}.sock")] };
        string[] printed = [.. QemuArguments.Machine(options, VmAccelerator.Tcg, new GuestImage("k", "i"), "")];
        string[] shown = await WordsAsync(text);
        Assert.Equal("qemu-system-x86_64", shown[0]);
        Assert.Contains("memory-backend=mem", Of(shown, "-machine").Single().Split(','));
        Assert.Contains("memory-backend=mem", Of(printed, "-machine").Single().Split(','));
        foreach (var option in new[] { "-object", "-chardev", "-device" })
            Assert.True(Of(printed, option).SequenceEqual(Of(shown, option)), $"{page}: {option} of {name}: {string.Join(' ', Of(printed, option))}");
    }

    [Fact]
    public async Task Printed_text_gives_a_shell_exactly_the_arguments()
    {
        string[] arguments = ["/opt/my qemu/qemu", "--library-path", "/x", "-L", "/y", "-name", "it's", "-append", "a=$b \"c\"", "-device", "{\"driver\":\"x\"}"];
        var line = new VmCommandLine(arguments, "k", "i", "c");
        Assert.Equal(arguments, await WordsAsync(line.Text));
        Assert.Equal(4, line.Text.Split('\n').Length);
    }

    // How much memory a guest has is for its owner to say.
    private static IEnumerable<string> Of(string[] words, string option) =>
        words.Zip(words.Skip(1)).Where(pair => pair.First == option).Select(pair => Sizes().Replace(pair.Second, "size=SIZE"));

    private static async Task<string[]> WordsAsync(string text)
    {
        using Process shell = Process.Start(new ProcessStartInfo("sh", ["-c", "printf '%s\\n' " + text])
        {
            RedirectStandardOutput = true,
            UseShellExecute = false,
            Environment = { ["VIRTBUS_RUNTIME"] = Runtime },
        })!;
        string words = await shell.StandardOutput.ReadToEndAsync();
        await shell.EndsAsync();
        return words.TrimEnd('\n').Split('\n');
    }

    private static string Root()
    {
        string folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Virtbus.slnx")))
            folder = Path.GetDirectoryName(folder) ?? throw new DirectoryNotFoundException("The pages are tested from within the source.");
        return folder;
    }

    [GeneratedRegex("<!-- qemu: (?<driver>\\S+) (?<name>\\S+) -->\n```sh\n(?<text>[^`]+)```", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Blocks();

    [GeneratedRegex("size=[0-9]+[MG]", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Sizes();
}
