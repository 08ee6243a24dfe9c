namespace Virtbus.Cli.Completion;

/// <summary>
/// What makes a shell ask the program what may come next. Each gives the words of the one command that the cursor is in, as <see cref="Completer"/> takes
/// them: what is before it on the line (a ';', sudo, an assignment) is the shell's business, and none of it is handed on.
/// </summary>
internal static class ShellScripts
{
    public static string Of(string shell) => shell switch
    {
        "bash" => Bash,
        "zsh" => Zsh,
        _ => Fish,
    };

    private const string Bash = """
        # Completion of virtbus for bash 4.4 and later.
        _virtbus() {
          local line=${COMP_LINE:0:COMP_POINT} blank word program current cut= rest value i
          local -a words=()
          # Readline cuts words at ':' and '=', which names have in them: what no blank parts is one word again.
          for ((i = 0; i <= COMP_CWORD; i++)); do
            blank=${line%%[![:blank:]]*}
            line=${line#"$blank"}
            word=${COMP_WORDS[i]}
            ((i == COMP_CWORD)) && word=$line
            if [[ $blank || i -eq 0 ]]; then words+=("$word"); else words[-1]+=$word; fi
            line=${line#"$word"}
          done
          words=("${words[@]//[\'\"\\]/}")
          program=${words[0]}
          [[ $program == '~/'* ]] && program=$HOME/${program#'~/'}
          # Only what is behind the last cut is replaced.
          current=${words[-1]}
          [[ $COMP_WORDBREAKS == *:* && $current == *:* ]] && cut=${current%"${current##*:}"}
          rest=${current#"$cut"}
          [[ $COMP_WORDBREAKS == *=* && $rest == *=* ]] && cut+=${rest%"${rest##*=}"}
          COMPREPLY=()
          while IFS= read -r line; do
            if [[ $line == :files ]]; then
              compopt -o default
              return
            fi
            value=${line%%$'\t'*}
            COMPREPLY+=("${value#"$cut"}")
            [[ $value == *[/=] ]] && compopt -o nospace
          done < <("$program" '[complete]' "${words[@]:1}" 2>/dev/null)
        }
        complete -F _virtbus virtbus

        """;

    private const string Zsh = """
        #compdef virtbus
        # Completion of virtbus for zsh: sourced behind compinit, or put as _virtbus into a folder of fpath.
        _virtbus() {
          local program=${(Q)words[1]} line value entry
          local -a before found values open
          [[ $program == '~/'* ]] && program=$HOME/${program#'~/'}
          ((CURRENT > 2)) && before=("${(@Q)words[2,CURRENT-1]}")
          found=("${(@f)$("$program" '[complete]' "${before[@]}" "${(Q)PREFIX}" 2>/dev/null)}")
          for line in $found; do
            if [[ $line == :files ]]; then
              _files
              return
            fi
            value=${line%%$'\t'*}
            entry=${value//:/\\:}
            [[ $line == *$'\t'* ]] && entry+=:${line#*$'\t'}
            if [[ $value == *[/=] ]]; then open+=("$entry"); else values+=("$entry"); fi
          done
          _describe -t values virtbus values -- open -S ''
        }
        if [[ $funcstack[1] == _virtbus ]]; then
          _virtbus "$@"
        else
          compdef _virtbus virtbus
        fi

        """;

    private const string Fish = """
        # Completion of virtbus for fish 3.1 and later.
        function __virtbus_complete
            set -l words (commandline -opc)
            set -l current (commandline -ct)
            # What stands before the program is not its own.
            while set -q words[1]; and not string match -q -r '(^|/)virtbus$' -- $words[1]
                set -e words[1]
            end
            set -q words[1]; or return
            set -l program (string replace -r '^~/' "$HOME/" -- $words[1])
            for line in ($program '[complete]' $words[2..-1] (string unescape -- "$current"; or echo -- "$current") 2>/dev/null)
                if test "$line" = :files
                    __fish_complete_path "$current"
                    return
                end
                echo -- $line
            end
        end
        complete -c virtbus -f -a '(__virtbus_complete)'

        """;
}
