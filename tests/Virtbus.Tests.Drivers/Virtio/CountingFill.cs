namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>Random bytes that a test knows: 1, 2, 3 and so on, over all buffers.</summary>
internal sealed class CountingFill
{
    private int _next;

    internal void Fill(Span<byte> bytes)
    {
        foreach (ref var value in bytes)
            value = (byte)Interlocked.Increment(ref _next);
    }

    internal static byte[] First(int count) => [.. Enumerable.Range(1, count).Select(static i => (byte)i)];
}
