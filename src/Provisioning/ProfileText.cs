using System.Text;
using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>The one way in which profiles are written on a line: <c>key=value</c> with blanks between; a value with blanks stands in quotation marks.</summary>
public static class ProfileText
{
    /// <summary>Takes a line apart into words.</summary>
    /// <param name="line">The line; <c>"</c> and <c>\</c> inside quotation marks have a <c>\</c> before them.</param>
    /// <exception cref="VirtbusException">EINVAL: a quotation mark has no end.</exception>
    public static IReadOnlyList<string> Split(string line)
    {
        ArgumentNullException.ThrowIfNull(line);
        var words = new List<string>();
        var word = new StringBuilder();
        var (isQuoted, isWord) = (false, false);
        for (var i = 0; i < line.Length; i++)
        {
            var c = line[i];
            if (isQuoted && c == '\\' && i + 1 < line.Length)
                word.Append(line[++i]);
            else if (c == '"')
                (isQuoted, isWord) = (!isQuoted, true);
            else if (c is ' ' or '\t' && !isQuoted)
                Finish();
            else
                (_, isWord) = (word.Append(c), true);
        }

        if (isQuoted)
            throw new VirtbusException(Errno.EINVAL, $"'{line}' has a quotation mark without an end. Write one behind the value.");
        Finish();
        return words;

        void Finish()
        {
            if (isWord)
                words.Add(word.ToString());
            word.Clear();
            isWord = false;
        }
    }

    /// <summary>Reads pairs.</summary>
    /// <param name="words">Words of the form key=value; nothing behind the sign takes a value away.</param>
    /// <exception cref="VirtbusException">EINVAL: a word is none, or a key comes twice.</exception>
    public static IReadOnlyList<KeyValuePair<string, string>> ParsePairs(IEnumerable<string> words)
    {
        ArgumentNullException.ThrowIfNull(words);
        var pairs = new List<KeyValuePair<string, string>>();
        foreach (var word in words)
        {
            var sign = word.IndexOf('=', StringComparison.Ordinal);
            if (sign <= 0)
                throw new VirtbusException(Errno.EINVAL, $"'{word}' is no attribute with its value. Write key=value, for example queues=4.");
            if (pairs.Exists(p => p.Key == word[..sign]))
                throw new VirtbusException(Errno.EINVAL, $"'{word[..sign]}' is there twice. Write it once.");
            pairs.Add(KeyValuePair.Create(word[..sign], word[(sign + 1)..]));
        }

        return pairs;
    }

    /// <summary>A word as <see cref="Split"/> reads it.</summary>
    /// <param name="word">The word.</param>
    public static string Quote(string word)
    {
        ArgumentNullException.ThrowIfNull(word);
        return word.Length > 0 && !word.AsSpan().ContainsAny(" \t\"\\")
            ? word
            : "\"" + word.Replace("\\", "\\\\", StringComparison.Ordinal).Replace("\"", "\\\"", StringComparison.Ordinal) + "\"";
    }
}
