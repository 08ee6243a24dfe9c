namespace Virtbus.Bench;

internal static class BlockBench
{
    internal static Task<int> RunAsync(string[] args) => Task.FromResult(args.Length);
}
