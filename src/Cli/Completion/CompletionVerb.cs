using System.CommandLine;

namespace Virtbus.Cli.Completion;

internal static class CompletionVerb
{
    public static Command Make()
    {
        var shell = new Argument<string>("SHELL") { Description = "bash, zsh or fish." };
        shell.AcceptOnlyFromAmong("bash", "zsh", "fish");
        var command = new Command("completion", "Print the completion script of a shell, for example: source <(virtbus completion bash)");
        command.Arguments.Add(shell);
        command.SetAction(result =>
        {
            var name = result.GetRequiredValue(shell);
            var script = ShellScripts.Of(name);
            CommandLine.OutputOf(result).Print(new CompletionScript(name, script), CliJson.Default.CompletionScript, w => w.Write(script));
            return ExitCode.Done;
        });
        return command;
    }
}
