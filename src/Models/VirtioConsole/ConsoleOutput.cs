namespace Virtbus.Models.VirtioConsole;

/// <summary>
/// Text of the guest that the other end has not taken yet. On the queue's thread, and on the control thread while the queue stands still.
/// </summary>
internal sealed class ConsoleOutput
{
    internal const int Capacity = 64 << 10;

    private readonly byte[] _bytes = new byte[Capacity];
    private int _begin;
    private int _end;

    internal bool IsEmpty => _begin == _end;

    internal ReadOnlySpan<byte> Left => _bytes.AsSpan(_begin, _end - _begin);

    /// <summary>Room for the next text, when there is nothing left.</summary>
    internal Span<byte> Fill(int length)
    {
        (_begin, _end) = (0, length);
        return _bytes.AsSpan(0, length);
    }

    internal void Taken(int length) => _begin += length;

    internal void Clear() => _begin = _end = 0;

    internal void Replace(ReadOnlySpan<byte> text) => text.CopyTo(Fill(text.Length));
}
