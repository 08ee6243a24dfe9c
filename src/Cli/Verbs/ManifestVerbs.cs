using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Daemon.Manifest;

namespace Virtbus.Cli.Verbs;

/// <summary>
/// A manifest by itself; and a running fabric and a manifest: what differs, what brings the one to the other, and the manifest that the fabric is.
/// </summary>
internal static class ManifestVerbs
{
    public const string DiffVerb = "diff";

    public static Command Make()
    {
        var file = ManifestFile();
        var check = new Command("check", "Say what is wrong in a manifest, each at its line and column. Needs no fabric, and makes nothing.") { file };
        check.SetAction(result => Check(result.GetRequiredValue(file), CommandLine.OutputOf(result)));
        return CommandLine.Group("manifest", "Look at manifests.", check);
    }

    private static int Check(string file, Output output)
    {
        try
        {
            var manifest = ManifestReader.ReadFile(file);
            output.Print(new ManifestReport(file, []), CliJson.Default.ManifestReport, writer => writer.WriteLine($"{file} is right: {Content(manifest)}."));
            return ExitCode.Done;
        }
        catch (ManifestException e) when (output.IsJson)
        {
            output.Print(new ManifestReport(file, [.. e.Errors.Select(static o => new ManifestReport.Error(o.At.Line, o.At.Column, o.Path, o.Message))]), CliJson.Default.ManifestReport, static _ => { });
            return ExitCode.Failed;
        }
    }

    private static string Content(FabricManifest manifest)
    {
        (int Count, string One, string Many)[] parts =
        [
            (manifest.Adapters.Count, "adapter", "adapters"),
            (manifest.Disks.Count, "disk", "disks"),
            (manifest.Serials.Count, "serial port", "serial ports"),
            (manifest.Functions.Count, "function", "functions"),
            (manifest.Devices.Sum(static d => d.Count.Value), "plain device", "plain devices"),
        ];
        var said = parts.Where(static p => p.Count > 0).Select(static p => $"{p.Count} {(p.Count == 1 ? p.One : p.Many)}").ToList();
        return said.Count == 0 ? "a fabric with nothing in it" : string.Join(", ", said);
    }

    public static Command Diff()
    {
        var file = ManifestFile();
        return CommandLine.Asking(
            DiffVerb,
            "Say what would bring the running fabric to a manifest, and do nothing. Ends with 1 when there is something to do, with 2 when that can't be said.",
            (result, client, output) =>
            {
                var answer = client.Ask("GET", ControlClient.Query("/v1/diff", ("file", Path.GetFullPath(result.GetRequiredValue(file)))), ApiJson.Default.ApplyAnswer);
                Print(output, answer);
                return answer.Changes.Count == 0 ? ExitCode.Done : ExitCode.Different;
            },
            file);
    }

    public static Command Apply()
    {
        var file = ManifestFile();
        return CommandLine.Asking(
            "apply",
            "Bring the running fabric to a manifest. What is not changed goes on; what is taken away waits for who has it open.",
            (result, client, output) =>
            {
                var query = ("file", Path.GetFullPath(result.GetRequiredValue(file)));
                if (!output.IsJson)
                    Print(output, client.Ask("GET", ControlClient.Query("/v1/diff", query), ApiJson.Default.ApplyAnswer));
                var answer = client.Ask("POST", ControlClient.Query("/v1/apply", query), ApiJson.Default.ApplyAnswer);
                output.Print(answer, ApiJson.Default.ApplyAnswer, writer => writer.WriteLine(answer.Changes.Count switch { 0 => "Nothing to do.", 1 => "1 change done.", var n => $"{n} changes done." }));
                return ExitCode.Done;
            },
            file);
    }

    public static Command Export() => CommandLine.Asking(
        "export",
        "Write the running fabric as the manifest that makes it again.",
        static (_, client, output) =>
        {
            var answer = client.Ask("GET", "/v1/manifest", ApiJson.Default.ManifestAnswer);
            output.Print(answer, ApiJson.Default.ManifestAnswer, writer => writer.Write(answer.Manifest));
            return ExitCode.Done;
        });

    private static Argument<string> ManifestFile() => Names.File(new Argument<string>("FILE") { Description = "The manifest, a YAML file." });

    private static void Print(Output output, ApplyAnswer answer) => output.Print(answer, ApiJson.Default.ApplyAnswer, writer =>
    {
        foreach (var change in answer.Changes)
            writer.WriteLine(change);
    });
}
