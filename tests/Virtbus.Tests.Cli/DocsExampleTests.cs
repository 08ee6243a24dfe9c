using System.Diagnostics;
using System.Text;
using System.Text.RegularExpressions;

namespace Virtbus.Tests.Cli;

/// <summary>
/// Runs the examples of docs/: the blocks after <c>&lt;!-- example: runs --&gt;</c>, page by page, each page in one shell and one folder. Lines
/// with <c>$ </c> are run; what stands below a command must be in its output, line by line in that order. A command succeeds, unless the
/// page shows a refusal (<c>virtbus: …</c>) as the first line of its output.
/// </summary>
public sealed partial class DocsExampleTests
{
    private const string Mark = "<!-- example: runs -->";
    private const string End = "--end-of-step--";

    private static readonly string Docs = Path.Combine(Root(), "docs");

    public static TheoryData<string> Pages { get; } =
    [
        .. Directory.EnumerateFiles(Docs, "*.md").Where(f => File.ReadAllText(f).Contains(Mark, StringComparison.Ordinal)).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal),
    ];

    [Theory]
    [MemberData(nameof(Pages))]
    public async Task Examples_of_a_page_run_as_shown(string page)
    {
        var steps = StepsOf(await File.ReadAllLinesAsync(Path.Combine(Docs, page), TestContext.Current.CancellationToken));
        Assert.NotEmpty(steps);
        await using var fabric = new TestFabric();
        var shim = fabric.Write("virtbus", $"#!/bin/sh\nexec '{TestFabric.Program}' \"$@\"\n");
        File.SetUnixFileMode(shim, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        var folder = Path.GetDirectoryName(shim)!;
        // What 'dotnet build samples/tutorial/NAME' makes, where the pages take it from.
        foreach (var (name, output) in new[] { ("bench_counter", TestFabric.TutorialModules), ("tally_card", TestFabric.TutorialModules), ("vfio_user_driver", UserDriverTests.Folder), ("frame_driver", FrameDriverTests.Folder), ("function_move", FunctionMoveTests.Folder) })
        {
            var built = Path.Combine(folder, "artifacts", "bin", name);
            Directory.CreateDirectory(built);
            Directory.CreateSymbolicLink(Path.Combine(built, "release"), output);
        }

        // Where './virtbus' says which program it runs, and so where its modules are.
        Directory.CreateDirectory(Path.Combine(folder, "artifacts/program"));
        await File.WriteAllTextAsync(Path.Combine(folder, "artifacts/program/current"), Path.GetDirectoryName(TestFabric.Program) + "\n", TestContext.Current.CancellationToken);
        var (outputs, all) = await RunAsync(folder, fabric.Runtime, steps);
        for (var i = 0; i < steps.Count; i++)
        {
            Assert.True(i < outputs.Count, $"{page}: '{steps[i].Command}' did not end.\n{all}");
            var refused = steps[i].Shown is [var first, ..] && first.StartsWith("virtbus: ", StringComparison.Ordinal);
            Assert.True(outputs[i].Code == (refused ? 1 : 0), $"{page}: '{steps[i].Command}' ended with {outputs[i].Code}.\n{outputs[i].Output}");
            var at = 0;
            foreach (var line in steps[i].Shown)
            {
                var found = outputs[i].Output.IndexOf(Squeeze(line), at, StringComparison.Ordinal);
                Assert.True(found >= 0, $"{page}: '{steps[i].Command}' does not say '{line}' there.\n{outputs[i].Output}");
                at = found + Squeeze(line).Length;
            }
        }
    }

    internal static async Task<(List<ProgramRun> Outputs, string All)> RunAsync(string folder, string runtime, List<Step> steps)
    {
        var script = new StringBuilder();
        foreach (var step in steps)
            script.Append(step.Command).Append("\ncode=$?; echo; echo ").Append(End).Append(" $code\n");
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        using var shell = Process.Start(new ProcessStartInfo("bash", ["-c", "exec 2>&1\n" + script])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            UseShellExecute = false,
            WorkingDirectory = folder,
            Environment = { ["VIRTBUS_RUNTIME"] = runtime },
        })!;
        try
        {
            shell.StandardInput.Close();
            var all = await shell.StandardOutput.ReadToEndAsync(deadline.Token);
            await shell.WaitForExitAsync(deadline.Token);
            var outputs = new List<ProgramRun>();
            var output = new StringBuilder();
            foreach (var line in all.Split('\n'))
            {
                if (line.StartsWith(End, StringComparison.Ordinal))
                {
                    outputs.Add(new ProgramRun(int.Parse(line[End.Length..]), output.ToString(), ""));
                    output.Clear();
                }
                else
                {
                    output.Append(Squeeze(line)).Append('\n');
                }
            }
            return (outputs, all);
        }
        finally
        {
            if (!shell.HasExited)
                shell.Kill(entireProcessTree: true);
        }
    }

    private static List<Step> StepsOf(string[] lines)
    {
        var steps = new List<Step>();
        for (var i = 0; i < lines.Length; i++)
        {
            if (lines[i] != Mark)
                continue;
            Assert.Equal("```sh", lines[++i]);
            for (i++; lines[i] != "```"; i++)
            {
                if (!lines[i].StartsWith("$ ", StringComparison.Ordinal))
                {
                    steps[^1].Shown.Add(lines[i]);
                    continue;
                }
                var command = lines[i][2..];
                if (HereDocument().Match(command) is { Success: true } here)
                {
                    do
                        command += "\n" + lines[++i];
                    while (lines[i] != here.Groups["end"].Value);
                }
                steps.Add(new Step(command, []));
            }
        }
        return steps;
    }

    // Columns are as wide as what stands in them.
    internal static string Squeeze(string line) => Spaces().Replace(line, " ").Trim();

    internal static string Root()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Virtbus.slnx")))
            folder = Path.GetDirectoryName(folder) ?? throw new DirectoryNotFoundException("The examples are tested from within the source.");
        return folder;
    }

    [GeneratedRegex("<<'(?<end>[A-Z]+)'", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex HereDocument();

    [GeneratedRegex(" {2,}", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Spaces();

    internal sealed record Step(string Command, List<string> Shown);
}
