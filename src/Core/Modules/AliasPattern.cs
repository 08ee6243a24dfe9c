namespace Virtbus.Core;

/// <summary>Alias patterns as depmod's and modprobe's: <c>*</c> any text, <c>?</c> any character, <c>[…]</c> a set with ranges.</summary>
public static class AliasPattern
{
    /// <summary>Tells whether a pattern matches the whole of a text. Takes time proportional to both lengths' product at most.</summary>
    /// <param name="pattern">The pattern.</param>
    /// <param name="text">The text.</param>
    public static bool IsMatch(ReadOnlySpan<char> pattern, ReadOnlySpan<char> text)
    {
        int p = 0, t = 0, star = -1, resume = 0;
        while (t < text.Length)
        {
            if (p < pattern.Length && pattern[p] == '*')
            {
                star = p++;
                resume = t;
            }
            else if (p < pattern.Length && TryMatchOne(pattern[p..], text[t], out var length))
            {
                p += length;
                t++;
            }
            else if (star >= 0)
            {
                // Only the last star can usefully take one more character.
                p = star + 1;
                t = ++resume;
            }
            else
            {
                return false;
            }
        }
        while (p < pattern.Length && pattern[p] == '*')
            p++;
        return p == pattern.Length;
    }

    internal static bool IsLiteral(string alias) => alias.AsSpan().IndexOfAny('*', '?', '[') < 0;

    private static bool TryMatchOne(ReadOnlySpan<char> pattern, char c, out int length)
    {
        length = 1;
        if (pattern[0] == '?')
            return true;
        if (pattern[0] != '[')
            return pattern[0] == c;
        var close = pattern[1..].IndexOf(']') + 1;
        if (close <= 0)
            return c == '[';
        length = close + 1;
        var set = pattern[1..close];
        var negate = set.Length > 0 && set[0] is '!' or '^';
        if (negate)
            set = set[1..];
        var inside = false;
        for (var i = 0; i < set.Length; i++)
        {
            if (i + 2 < set.Length && set[i + 1] == '-')
            {
                inside |= c >= set[i] && c <= set[i + 2];
                i += 2;
            }
            else
            {
                inside |= c == set[i];
            }
        }
        return inside != negate;
    }
}
