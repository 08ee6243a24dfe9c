namespace Virtbus.Bench;

internal static class Statistics
{
    /// <summary>The middle one in order of size; of an even number the upper of the two.</summary>
    internal static double Median(IEnumerable<double> values)
    {
        var sorted = values.Order().ToArray();
        return sorted[sorted.Length / 2];
    }
}
