namespace Virtbus.Bench;

/// <summary>Options of a bench: names with a value each.</summary>
internal static class NamedValues
{
    /// <summary>Reads them over their defaults; false, and a line that says why, when one is not known or has no value.</summary>
    internal static bool TryRead(string[] args, Dictionary<string, string> values)
    {
        for (var i = 0; i < args.Length; i += 2)
        {
            if (!values.ContainsKey(args[i]) || i + 1 == args.Length)
            {
                Console.Error.WriteLine($"unknown or unfinished option '{args[i]}'");
                return false;
            }

            values[args[i]] = args[i + 1];
        }

        return true;
    }
}
