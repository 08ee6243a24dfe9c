using System.Text.RegularExpressions;

namespace Virtbus.Tests.Cli;

/// <summary>
/// The README's transcript is what the program does: each of its commands is run, in its order, and says what is shown there. What a shell does not have
/// here, a build, the suite and virtual machines, is left out; the tests of guests show those.
/// </summary>
public sealed partial class ReadmeTests
{
    private const string Left = "...";

    [Fact]
    public async Task Transcript_of_the_readme_is_what_the_program_says()
    {
        var steps = StepsOf(await File.ReadAllLinesAsync(Path.Combine(DocsExampleTests.Root(), "README.md"), TestContext.Current.CancellationToken));
        Assert.Equal(["up", "driver", "driver", "attr", "function", "mount", "mount", "down"], steps.Select(static s => s.Command.Split(' ')[1]));
        await using var fabric = new TestFabric();
        var shim = fabric.Write("virtbus", $"#!/bin/sh\nexec '{TestFabric.Program}' \"$@\"\n");
        File.SetUnixFileMode(shim, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        var (outputs, all) = await DocsExampleTests.RunAsync(Path.GetDirectoryName(shim)!, fabric.Runtime, steps);
        Assert.True(outputs.Count == steps.Count, all);
        for (var i = 0; i < steps.Count; i++)
        {
            var said = Plain(outputs[i].Output.Replace(fabric.Runtime, "/tmp/virtbus-1000", StringComparison.Ordinal));
            var at = 0;
            foreach (var line in steps[i].Shown.Select(Plain))
            {
                var found = said.IndexOf(line, at, StringComparison.Ordinal);
                Assert.True(found >= 0, $"'{steps[i].Command}' does not say '{line}' there.\n{said}");
                at = found + line.Length;
            }
        }
    }

    private static List<DocsExampleTests.Step> StepsOf(string[] lines)
    {
        var steps = new List<DocsExampleTests.Step>();
        DocsExampleTests.Step? step = null;
        foreach (var line in lines)
        {
            if (line == "```")
            {
                step = null;
            }
            else if (line.StartsWith("$ ./virtbus ", StringComparison.Ordinal))
            {
                step = new DocsExampleTests.Step(line[2..], []);
                if (!Elsewhere().IsMatch(line))
                    steps.Add(step);
            }
            else if (line is not (Left or "") && !line.StartsWith("Building virtbus", StringComparison.Ordinal))
            {
                step?.Shown.Add(line);
            }
        }

        return steps;
    }

    // Times and numbers of processes are of their run, and columns as wide as what stands in them.
    private static string Plain(string text) =>
        string.Join('\n', text.Split('\n').Select(static line => Process().Replace(Time().Replace(DocsExampleTests.Squeeze(line), "T ms"), "process P")));

    [GeneratedRegex(@"^\$ \./virtbus (test|vm)\b", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Elsewhere();

    [GeneratedRegex(@"\d+(\.\d+)? m?s\b", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Time();

    [GeneratedRegex(@"process \d+", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Process();
}
