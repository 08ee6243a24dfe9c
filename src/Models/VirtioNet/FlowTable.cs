using Virtbus.Ethernet;

namespace Virtbus.Models.VirtioNet;

/// <summary>Which queue pair sent last in a flow. Flows of one slot share it; any thread.</summary>
internal sealed class FlowTable
{
    private const int Slots = 1024;
    // Number of the pair and one; 0 for none.
    private readonly byte[] _pairs = new byte[Slots];

    internal void Note(ReadOnlySpan<byte> frame, int pair)
    {
        ref var slot = ref _pairs[FlowHeader.Parse(frame).SymmetricHash(frame) % Slots];
        var value = (byte)(pair + 1);
        // Written when it changes only: other threads read the line.
        if (Volatile.Read(ref slot) != value)
            Volatile.Write(ref slot, value);
    }

    /// <summary>The pair of a frame's flow; one by its hash where none has sent, or one that is not in use.</summary>
    internal int Find(ReadOnlySpan<byte> frame, int pairs)
    {
        var hash = FlowHeader.Parse(frame).SymmetricHash(frame);
        var pair = Volatile.Read(ref _pairs[hash % Slots]) - 1;
        return pair >= 0 && pair < pairs ? pair : (int)((hash >> 10) % (uint)pairs);
    }

    internal void Clear() => Array.Clear(_pairs);
}
