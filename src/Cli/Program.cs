using System.CommandLine;
using Virtbus.Cli;
using Virtbus.Cli.Completion;
using Virtbus.Cli.Text;
using Virtbus.Cli.Verbs;
using Virtbus.Platform;

StandardStreams.Claim();
// Not disposed: that would write again what could not be written.
var output = StandardOutput.NewWriter();
var errors = StandardOutput.NewErrorWriter();
Console.SetOut(output);
Console.SetError(errors);

var failed = ExitCode.Failed;
try
{
    if (args is [Completer.Request, .. var line])
    {
        Completer.Write(output, CommandLine.Make(null), line);
        output.Flush();
        return ExitCode.Done;
    }
    var (words, command) = CommandLine.Split(args);
    if (words.Length == 0)
        words = ["--help"];
    var result = CommandLine.Make(command).Parse(words, CommandLine.Words);
    if (CommandLine.UsageError(result) is { } error)
    {
        errors.WriteLine($"virtbus: {error}");
        errors.WriteLine($"Try 'virtbus {string.Join(' ', CommandLine.VerbOf(result))} --help'.".Replace("  ", " "));
        return ExitCode.Usage;
    }
    // A script must not take trouble for a difference.
    if (CommandLine.VerbOf(result).SequenceEqual([ManifestVerbs.DiffVerb]))
        failed = ExitCode.Trouble;
    // The verbs see to signals themselves: 'up' takes the fabric down in order, the others just end.
    var code = await result.InvokeAsync(new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null, Output = output, Error = errors });
    // What the parser prints itself: help, the version, completions.
    output.Flush();
    return code;
}
catch (Exception e)
{
    return Failure.Tell(e, errors) is var code && code == ExitCode.Failed ? failed : code;
}
