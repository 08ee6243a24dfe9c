using System.CommandLine;
using System.CommandLine.Completions;

namespace Virtbus.Cli.Completion;

/// <summary>
/// Says what may come next on a line: verbs, options, and what the argument at that place names. The shell gives the words behind the program, the last
/// one as far as it is typed; the answer is a line for each word, with a tab and what it is behind it, or <c>:files</c> where the shell is to offer files.
/// </summary>
internal static class Completer
{
    /// <summary>The word that a shell's script calls the program with, before those of the line.</summary>
    public const string Request = "[complete]";

    /// <summary>Among an argument's sources: it is a file of the host.</summary>
    public static readonly Func<CompletionContext, IEnumerable<CompletionItem>> Files = static _ => [];

    private const string FilesLine = ":files";

    /// <summary>Answers a shell.</summary>
    /// <param name="writer">Where to.</param>
    /// <param name="root">The parser.</param>
    /// <param name="words">The words; the last one is to be completed.</param>
    public static void Write(TextWriter writer, RootCommand root, string[] words)
    {
        var (before, current) = words is [.. var first, var last] ? (first, last) : (words, "");
        foreach (var item in Find(root, before, current))
        {
            if (item.Label.StartsWith(current, StringComparison.Ordinal) || item.Label == FilesLine)
                writer.WriteLine(item.Detail is { Length: > 0 } detail ? $"{item.Label}\t{FirstSentence(detail)}" : item.Label);
        }
    }

    private static IEnumerable<CompletionItem> Find(RootCommand root, string[] before, string current)
    {
        var place = new Place(root);
        // What follows is another program's command line.
        if (before.Contains("--") || !before.All(place.TryPass))
            return [];
        var context = new Lazy<CompletionContext>(() => root.Parse([.. before, current], CommandLine.Words).GetCompletionContext());
        if (place.Pending is { } option)
            return From(option.CompletionSources, context, before);
        if (current.StartsWith('-'))
            return place.Options(before);
        if (place.Command.Subcommands.Count > 0)
            return place.Command.Subcommands.Where(static c => !c.Hidden).Select(static c => Item(c.Name, c.Description));
        return place.Argument is { } argument ? From(argument.CompletionSources, context, before) : place.Options(before);
    }

    private static IEnumerable<CompletionItem> From(
        List<Func<CompletionContext, IEnumerable<CompletionItem>>> sources, Lazy<CompletionContext> context, string[] before) =>
        sources.Contains(Files) ? [new CompletionItem(FilesLine)] : sources.SelectMany(s => s(context.Value)).Where(i => !before.Contains(i.Label)).DistinctBy(static i => i.Label);

    private static CompletionItem Item(string label, string? description) => new(label, detail: description);

    private static string FirstSentence(string text)
    {
        var end = text.AsSpan().IndexOfAny('\n', '\t');
        var line = end < 0 ? text : text[..end];
        var stop = line.IndexOf(". ", StringComparison.Ordinal);
        return (stop < 0 ? line : line[..stop]).TrimEnd('.');
    }

    /// <summary>How far a line is.</summary>
    private sealed class Place(RootCommand root)
    {
        private int _taken;

        public Command Command { get; private set; } = root;

        /// <summary>The option whose value comes next.</summary>
        public Option? Pending { get; private set; }

        /// <summary>The argument that comes next; null when there is none any more.</summary>
        public Argument? Argument
        {
            get
            {
                var left = _taken;
                foreach (var argument in Command.Arguments)
                {
                    if (left < argument.Arity.MaximumNumberOfValues)
                        return argument;
                    left -= argument.Arity.MaximumNumberOfValues;
                }
                return null;
            }
        }

        /// <summary>Takes a word; false when it leads nowhere.</summary>
        public bool TryPass(string word)
        {
            if (Pending is not null)
            {
                Pending = null;
                return true;
            }
            if (word.StartsWith('-'))
            {
                var option = All().FirstOrDefault(o => o.Name == word || o.Aliases.Contains(word));
                Pending = option?.Arity.MinimumNumberOfValues > 0 ? option : null;
                return true;
            }
            if (Command.Subcommands.FirstOrDefault(c => c.Name == word) is { } verb)
            {
                Command = verb;
                return true;
            }
            _taken++;
            return Command.Subcommands.Count == 0;
        }

        /// <summary>The options that can come next.</summary>
        public IEnumerable<CompletionItem> Options(string[] before) =>
            All().Where(o => !o.Hidden && !before.Contains(o.Name) && !o.Aliases.Any(before.Contains)).Select(static o => Item(o.Name, o.Description));

        private IEnumerable<Option> All() => Command.Options.Concat(root.Options.Where(o => o.Recursive && Command != root));
    }
}
