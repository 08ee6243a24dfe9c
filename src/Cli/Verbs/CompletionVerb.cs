using System.CommandLine;

namespace Virtbus.Cli.Verbs;

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
            var script = Script(name);
            CommandLine.OutputOf(result).Print(new CompletionScript(name, script), CliJson.Default.CompletionScript, w => w.Write(script));
            return ExitCode.Done;
        });
        return command;
    }

    // The program itself answers, so that names of the running fabric are offered too.
    private static string Script(string shell) => shell switch
    {
        "bash" => """
            _virtbus() {
              local IFS=$'\n' line="${COMP_LINE}" point="${COMP_POINT}"
              local first="${line%% *}"
              # The program completes lines that begin with its own name, however it was called.
              line="virtbus${line#"$first"}"
              point=$((point - ${#first} + 7))
              COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" "[suggest:${point}]" "${line}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
              [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
            }
            complete -o default -F _virtbus virtbus ./virtbus

            """,
        "zsh" => """
            #compdef virtbus
            _virtbus() {
              local line="virtbus${BUFFER#"${words[1]}"}"
              local -a found
              found=("${(@f)$("${words[1]}" "[suggest:$((CURSOR - ${#words[1]} + 7))]" "$line" 2>/dev/null)}")
              found=("${(@)found:#}")
              compadd -S '' -M 'r:|/=*' -- "${(@M)found:#*/}"
              compadd -- "${(@)found:#*/}"
            }
            compdef _virtbus virtbus ./virtbus

            """,
        _ => """
            function __virtbus_complete
                set -l line (commandline -cp)
                set -l first (string split -m 1 ' ' -- $line)[1]
                set -l rest (string sub -s (math (string length -- $first) + 1) -- $line)
                $first "[suggest:"(string length -- "virtbus$rest")"]" "virtbus$rest" 2>/dev/null
            end
            complete -c virtbus -f -a '(__virtbus_complete)'

            """,
    };
}
