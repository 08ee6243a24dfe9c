using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Parsing;
using Virtbus.Cli.Completion;
using Virtbus.Cli.Text;
using Virtbus.Cli.Verbs;
using Virtbus.Platform;

namespace Virtbus.Cli;

/// <summary>The verbs and what they take.</summary>
internal static class CommandLine
{
    /// <summary>-j of every verb.</summary>
    public static readonly Option<bool> Json = new("--json", "-j") { Description = "Print JSON.", Recursive = true };

    /// <summary>-p of every verb.</summary>
    public static readonly Option<bool> Pretty = new("--pretty", "-p") { Description = "Print JSON, spread over many lines.", Recursive = true };

    /// <summary>A word with '@' is a word, not a file of more words: values and names may begin so.</summary>
    public static readonly ParserConfiguration Words = new() { ResponseFileTokenReplacer = null };

    /// <summary>Takes what follows '--' off the words: it is another program's command line.</summary>
    public static (string[] Words, string[]? Command) Split(string[] args)
    {
        var dashes = Array.IndexOf(args, "--");
        return dashes < 0 ? (args, null) : (args[..dashes], args[(dashes + 1)..]);
    }

    /// <summary>Makes the parser.</summary>
    /// <param name="command">What followed '--'; null when there was none.</param>
    public static RootCommand Make(string[]? command)
    {
        var root = MakeVerbs(command);
        // Windows's and others' words for help: here '/h' is a path.
        foreach (var help in root.Options.OfType<HelpOption>())
        {
            foreach (var foreign in (string[])["/h", "/?", "-?"])
                help.Aliases.Remove(foreign);
        }
        return root;
    }

    private static RootCommand MakeVerbs(string[]? command) =>
        new("Runs a fabric of virtual devices, buses and drivers, and looks into it.")
        {
            Json,
            Pretty,
            UpVerb.Make(),
            DownVerb.Make(),
            StatusVerb.Make(),
            ManifestVerbs.Make(),
            ManifestVerbs.Diff(),
            ManifestVerbs.Apply(),
            ManifestVerbs.Export(),
            TreeVerb.Make(),
            DeviceVerbs.Make(),
            SocketVerbs.Make(),
            DriverVerbs.Make(),
            FunctionVerbs.Make(),
            VfVerbs.Make(),
            BusVerbs.Make(),
            InterfaceVerbs.Make(),
            ModuleVerbs.Make(),
            AttrVerbs.Make(),
            MonitorVerb.Make(),
            PowerVerbs.Make(),
            VmVerb.Make(command),
            ConsoleVerb.Make(),
            MountVerbs.Mount(command),
            MountVerbs.Unmount(),
            CompletionVerb.Make(),
        };

    /// <summary>The words that lead to the verb of a parsed line.</summary>
    public static IEnumerable<string> VerbOf(ParseResult result)
    {
        var words = new Stack<string>();
        for (SymbolResult? at = result.CommandResult; at is CommandResult { Command: not RootCommand } command; at = at.Parent)
            words.Push(command.Command.Name);
        return words;
    }

    /// <summary>What is wrong with a parsed line; null when nothing is.</summary>
    public static string? UsageError(ParseResult result)
    {
        if (result.Errors.Count > 0)
            return result.UnmatchedTokens is [var word, ..] ? NotUnderstood(result, word) : result.Errors[0].Message;
        // The parser takes an option that it does not know for an argument. Only values that are written may begin so.
        var option = result.CommandResult.Children.OfType<ArgumentResult>()
            .Where(a => a.Argument.Name != AttrVerbs.Value)
            .SelectMany(a => a.Tokens)
            .FirstOrDefault(t => t.Value.StartsWith('-'));
        return option is null ? null : NotUnderstood(result, option.Value);
    }

    private static string NotUnderstood(ParseResult result, string word)
    {
        var command = result.CommandResult.Command;
        var verb = string.Join(' ', ["virtbus", .. VerbOf(result)]);
        return word.StartsWith('-') || command.Subcommands.Count == 0
            ? $"'{verb}' does not take '{word}'.{Suggestion.For(word, command.Options.Select(o => o.Name))}"
            : $"'{word}' is no verb of '{verb}'.{Suggestion.For(word, command.Subcommands.Select(c => c.Name))}";
    }

    /// <summary>How the verb of a parsed line is to print. JSON in lines is JSON: -p says -j too.</summary>
    public static Output OutputOf(ParseResult result) => new(result.GetValue(Json) || result.GetValue(Pretty), result.GetValue(Pretty));

    /// <summary>
    /// Adds a check of all that was typed. A line on which an option lacks its value is the parser's to refuse, and is not seen by it: there is nothing to get.
    /// </summary>
    public static void AddCheck(Command command, Action<CommandResult> check) => command.Validators.Add(result =>
    {
        if (!result.Children.OfType<OptionResult>().Any(static o => !o.Implicit && o.Tokens.Count < o.Option.Arity.MinimumNumberOfValues))
            check(result);
    });

    /// <summary>A verb that asks the running fabric.</summary>
    public static Command Asking(string name, string description, Func<ParseResult, ControlClient, Output, int> run, params Argument[] arguments)
    {
        var command = new Command(name, description);
        foreach (var argument in arguments)
            command.Arguments.Add(argument);
        command.SetAction(result => run(result, ControlClient.FromEnvironment(), OutputOf(result)));
        return command;
    }

    /// <summary>A verb that asks the daemon and then goes on for a while.</summary>
    public static Command AskingAsync(string name, string description, Func<ParseResult, ControlClient, Task<int>> run, params Argument[] arguments)
    {
        var command = new Command(name, description);
        foreach (var argument in arguments)
            command.Arguments.Add(argument);
        command.SetAction((result, _) => run(result, ControlClient.FromEnvironment()));
        return command;
    }

    /// <summary>A word with verbs below it.</summary>
    public static Command Group(string name, string description, params Command[] verbs)
    {
        var command = new Command(name, description);
        foreach (var verb in verbs)
            command.Subcommands.Add(verb);
        return command;
    }
}
