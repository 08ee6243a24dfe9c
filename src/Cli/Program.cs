using System.CommandLine;
using Virtbus.Cli;
using Virtbus.Platform;

var (words, command) = CommandLine.Split(args);
try
{
    var result = CommandLine.Make(command).Parse(words);
    if (CommandLine.UsageError(result) is { } error)
    {
        Console.Error.WriteLine($"virtbus: {error}");
        Console.Error.WriteLine($"Try 'virtbus {string.Join(' ', CommandLine.VerbOf(result))} --help'.".Replace("  ", " "));
        return ExitCode.Usage;
    }
    // The verbs see to signals themselves: 'up' takes the fabric down in order, the others just end.
    return await result.InvokeAsync(new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null });
}
catch (VirtbusException e)
{
    foreach (var line in e.Message.Split('\n'))
        Console.Error.WriteLine($"virtbus: {line}");
    return ExitCode.Failed;
}
catch (IOException e) when (!Console.IsOutputRedirected || e.HResult == (int)Errno.EPIPE)
{
    // Who reads the output has closed it, as 'head' does.
    return ExitCode.Failed;
}
