using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Virtbus.Daemon.Manifest;

/// <summary>
/// Turns YAML into nodes with places. Keys that come twice are kept, so that they are reported with everything else that is wrong.
/// Anchors and tags are refused: a manifest is data, and an alias may stand for more than any machine holds.
/// </summary>
internal sealed class ManifestYaml
{
    private const int MaxDepth = 32;
    private readonly Parser _parser;
    private readonly List<ManifestError> _errors;

    private ManifestYaml(TextReader text, List<ManifestError> errors)
    {
        _parser = new Parser(text);
        _errors = errors;
    }

    /// <summary>Reads the one document of a text.</summary>
    /// <param name="text">The text.</param>
    /// <param name="errors">Gets what is wrong.</param>
    /// <returns>The document; null when it is empty or not readable.</returns>
    public static ManifestNode? Parse(string text, List<ManifestError> errors)
    {
        using var reader = new StringReader(text);
        var yaml = new ManifestYaml(reader, errors);
        try
        {
            yaml._parser.Consume<StreamStart>();
            if (!yaml._parser.TryConsume<DocumentStart>(out _))
                return null;
            var root = yaml.Read(0);
            yaml._parser.Consume<DocumentEnd>();
            if (yaml._parser.TryConsume<DocumentStart>(out var second))
                errors.Add(new ManifestError(Place(second.Start), "", "a second document begins here. A manifest is one document; remove '---' and what follows."));
            return root;
        }
        catch (YamlException e)
        {
            errors.Add(new ManifestError(Place(e.Start), "", $"this is no YAML: {Sentence(e.Message)}"));
            return null;
        }
    }

    private ManifestNode Read(int depth)
    {
        if (depth > MaxDepth)
            throw new YamlException(_parser.Current!.Start, _parser.Current.End, $"more than {MaxDepth} levels.");
        if (_errors.Count >= ManifestError.MaxKept)
            throw new YamlException(_parser.Current!.Start, _parser.Current.End, $"more than {ManifestError.MaxKept} faults.");
        if (_parser.TryConsume<Scalar>(out var scalar))
        {
            CheckPlain(scalar);
            return new ScalarNode(Place(scalar.Start), scalar.Value, scalar.Style == ScalarStyle.Plain);
        }
        if (_parser.TryConsume<SequenceStart>(out var sequence))
        {
            CheckPlain(sequence);
            var items = new List<ManifestNode>();
            while (!_parser.TryConsume<SequenceEnd>(out _))
                items.Add(Read(depth + 1));
            return new SequenceNode(Place(sequence.Start), items);
        }
        if (_parser.TryConsume<MappingStart>(out var mapping))
        {
            CheckPlain(mapping);
            var entries = new List<(ScalarNode, ManifestNode)>();
            while (!_parser.TryConsume<MappingEnd>(out _))
            {
                var key = Read(depth + 1);
                var value = Read(depth + 1);
                if (key is ScalarNode name)
                    entries.Add((name, value));
                else
                    _errors.Add(new ManifestError(key.At, "", $"{key.Kind} can't be a key. Write a word."));
            }
            return new MappingNode(Place(mapping.Start), entries);
        }
        var alias = _parser.Consume<AnchorAlias>();
        _errors.Add(new ManifestError(Place(alias.Start), "", $"'*{alias.Value}' is an alias, which a manifest can't have. Write the value out."));
        return new ScalarNode(Place(alias.Start), "", IsPlain: true);
    }

    private void CheckPlain(NodeEvent node)
    {
        if (!node.Anchor.IsEmpty)
            _errors.Add(new ManifestError(Place(node.Start), "", $"'&{node.Anchor.Value}' is an anchor, which a manifest can't have. Remove it."));
        if (!node.Tag.IsEmpty && !node.Tag.IsNonSpecific)
            _errors.Add(new ManifestError(Place(node.Start), "", $"'{node.Tag.Value}' is a tag, which a manifest can't have. Remove it."));
    }

    private static ManifestPosition Place(Mark mark) => new((int)mark.Line, (int)mark.Column);

    private static string Sentence(string message) => message.EndsWith('.') ? message : message + ".";
}
