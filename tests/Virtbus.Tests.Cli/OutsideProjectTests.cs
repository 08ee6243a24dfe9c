using System.Diagnostics;
using Virtbus.Testing;

namespace Virtbus.Tests.Cli;

/// <summary>A project that is not in the tree tests device models of its own with <c>Virtbus.Testing</c>: <c>samples/outside/die</c>, as docs/testing.md says.</summary>
public sealed class OutsideProjectTests
{
    [Fact]
    public async Task Project_outside_of_the_tree_tests_its_own_device_models()
    {
        var root = DocsExampleTests.Root();
        var folder = Directory.CreateTempSubdirectory("virtbus-outside").FullName;
        try
        {
            foreach (var file in Directory.EnumerateFiles(Path.Combine(root, "samples", "outside", "die")))
                File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
            // What it refers to is built already, as these tests are.
            var built = await RunAsync(
                folder, root, "build", "-c", "Release", "-v", "quiet", "--nologo", "-nodeReuse:false", "-p:BuildProjectReferences=false", "-p:UseSharedCompilation=false");
            Assert.True(built.Code == 0, built.Output);
            var run = await RunAsync(folder, root, Path.Combine("bin", "Release", "net10.0", "die.dll"), "-noColor");
            Assert.True(run.Code == 0, run.Output);
            Assert.Contains("Total: 6, Errors: 0, Failed: 0, Skipped: 0", run.Output, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static async Task<(string Output, int Code)> RunAsync(string folder, string root, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(Environment.ProcessPath!, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
            WorkingDirectory = folder,
            Environment = { ["VirtbusRoot"] = root, ["DOTNET_CLI_TELEMETRY_OPTOUT"] = "1", ["DOTNET_NOLOGO"] = "1" },
        })!;
        var texts = Task.WhenAll(process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        try
        {
            // A build on a machine with much to do.
            await texts.WaitAsync(10 * Deadline.Limit);
        }
        catch (TimeoutException)
        {
            process.Kill(entireProcessTree: true);
            throw;
        }

        await process.EndsAsync();
        return (string.Concat(await texts), process.ExitCode);
    }
}
