namespace Virtbus.Platform;

/// <summary>Finds the word that was likely meant, for the sentence that refuses another. Any thread.</summary>
public static class Suggestion
{
    /// <summary>" Did you mean 'X'?" for the nearest word, or nothing when none is near.</summary>
    /// <param name="word">What was written.</param>
    /// <param name="known">What could have been meant.</param>
    public static string For(string word, IEnumerable<string> known)
    {
        ArgumentNullException.ThrowIfNull(word);
        ArgumentNullException.ThrowIfNull(known);
        // Long text can't be a slip of a short word, and the comparison is quadratic.
        if (word.Length > 64)
            return "";
        var wanted = word.ToLowerInvariant();
        var nearest = known
            // Each letter more or less is a slip: most of what there is need not be compared.
            .Where(k => Math.Abs(k.Length - word.Length) <= MostSlips(k))
            .Select(k => (Word: k, Distance: Distance(wanted, k.ToLowerInvariant())))
            .Where(k => k.Distance <= MostSlips(k.Word))
            .OrderBy(k => k.Distance)
            .Select(k => k.Word)
            .FirstOrDefault();
        return nearest is null ? "" : $" Did you mean '{nearest}'?";
    }

    /// <summary>" Did you mean '64MiB'?" for a size whose unit is written in another way, as 64MB, 64m or 64 mib; else nothing.</summary>
    /// <param name="size">What was written.</param>
    public static string ForSize(string size)
    {
        ArgumentNullException.ThrowIfNull(size);
        var digits = size.AsSpan().IndexOfAnyExceptInRange('0', '9');
        if (digits is <= 0 or > 18)
            return "";
        var unit = size[digits..].Trim().ToLowerInvariant();
        var prefix = unit.Length > 0 ? "kmgt".IndexOf(unit[0], StringComparison.Ordinal) : -1;
        return prefix >= 0 && unit[1..] is "" or "b" or "i" or "ib" or "byte" or "bytes" ? $" Did you mean '{size[..digits]}{"KMGT"[prefix]}iB'?" : "";
    }

    private static int MostSlips(string word) => Math.Max(1, word.Length / 3);

    // Levenshtein's distance, with two letters that changed places as one slip.
    private static int Distance(string a, string b)
    {
        var rows = new int[a.Length + 1, b.Length + 1];
        for (var i = 0; i <= a.Length; i++)
            rows[i, 0] = i;
        for (var j = 0; j <= b.Length; j++)
            rows[0, j] = j;
        for (var i = 1; i <= a.Length; i++)
        {
            for (var j = 1; j <= b.Length; j++)
            {
                var best = Math.Min(Math.Min(rows[i - 1, j], rows[i, j - 1]) + 1, rows[i - 1, j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1));
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                    best = Math.Min(best, rows[i - 2, j - 2] + 1);
                rows[i, j] = best;
            }
        }
        return rows[a.Length, b.Length];
    }
}
