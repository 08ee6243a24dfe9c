using System.Buffers;
using System.Globalization;
using System.Text;

namespace Virtbus.Platform;

/// <summary>
/// Text that somebody else chose, made fit for a log or a terminal: a process can give itself a name with line ends, with what moves a cursor, or
/// with what turns the direction of the text around.
/// </summary>
public static class PrintableText
{
    private static readonly SearchValues<char> _plain = SearchValues.Create(
        [.. Enumerable.Range(' ', 0x7f - ' ').Select(static c => (char)c)]);

    /// <summary>Writes characters that do not stand for themselves on a line as C does (<c>\n</c>, <c>\u202e</c>); the rest stays.</summary>
    /// <param name="text">The text.</param>
    /// <returns>The same text when there is none of them.</returns>
    public static string Escape(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var at = text.AsSpan().IndexOfAnyExcept(_plain);
        if (at < 0)
            return text;
        var escaped = new StringBuilder(text.Length + 16).Append(text, 0, at);
        while (at < text.Length)
        {
            // Half a pair is no character: it has no encoding.
            if (!Rune.TryGetRuneAt(text, at, out var rune))
                Append(escaped, text[at++]);
            else
            {
                if (IsPrintable(rune))
                    escaped.Append(text, at, rune.Utf16SequenceLength);
                else
                    Append(escaped, rune.Value);
                at += rune.Utf16SequenceLength;
            }
        }

        return escaped.ToString();
    }

    private static bool IsPrintable(Rune rune) => Rune.GetUnicodeCategory(rune) is not (
        UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator);

    private static void Append(StringBuilder escaped, int value)
    {
        _ = value switch
        {
            '\n' => escaped.Append("\\n"),
            '\r' => escaped.Append("\\r"),
            '\t' => escaped.Append("\\t"),
            <= 0xff => escaped.Append(CultureInfo.InvariantCulture, $"\\x{value:x2}"),
            <= 0xffff => escaped.Append(CultureInfo.InvariantCulture, $"\\u{value:x4}"),
            _ => escaped.Append(CultureInfo.InvariantCulture, $"\\U{value:x8}"),
        };
    }
}
