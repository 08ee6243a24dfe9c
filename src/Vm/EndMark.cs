namespace Virtbus.Vm;

/// <summary>
/// Finds the mark that the guest puts behind the last byte of a stream. Bytes before it pass through exactly; only bytes that may be the
/// start of the mark are held back until the next ones tell.
/// </summary>
internal sealed class EndMark(byte[] mark)
{
    private readonly List<byte> _held = [];
    private readonly List<byte> _tail = [];
    private bool _inTail;

    /// <summary>What stood between the mark and the newline that ends the stream; null until that newline came.</summary>
    public string? Tail { get; private set; }

    /// <summary>Takes bytes as they come and returns those that belong to the stream.</summary>
    public byte[] Pass(ReadOnlySpan<byte> bytes)
    {
        if (_inTail)
        {
            TakeTail(bytes);
            return [];
        }

        byte[] all = [.. _held, .. bytes];
        _held.Clear();
        int at = all.AsSpan().IndexOf(mark);
        if (at >= 0)
        {
            _inTail = true;
            TakeTail(all.AsSpan(at + mark.Length));
            return all[..at];
        }

        int keep = Math.Min(mark.Length - 1, all.Length);
        while (keep > 0 && !all.AsSpan(all.Length - keep).SequenceEqual(mark.AsSpan(0, keep)))
            keep--;
        _held.AddRange(all.AsSpan(all.Length - keep));
        return all[..^keep];
    }

    /// <summary>The bytes held back, for a stream that ended without a mark.</summary>
    public byte[] Rest() => [.. _held];

    private void TakeTail(ReadOnlySpan<byte> bytes)
    {
        int newline = bytes.IndexOf((byte)'\n');
        _tail.AddRange(newline < 0 ? bytes : bytes[..newline]);
        if (newline >= 0 && Tail is null)
            Tail = System.Text.Encoding.ASCII.GetString([.. _tail]);
    }
}
