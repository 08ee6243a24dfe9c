using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Tests.Block;

/// <summary>Memory for requests, as a guest's, and the runs that name it.</summary>
internal sealed class BlockBuffer : IDisposable
{
    private readonly AlignedBuffer _memory;
    private readonly IoVector[] _runs = GC.AllocateArray<IoVector>(4096, pinned: true);

    internal BlockBuffer(int length) => _memory = new AlignedBuffer(length, 4096);

    internal Span<byte> Bytes => _memory.Take(_memory.Length).AsSpan();

    internal BlockRequest Request(BlockOperation operation, long offset, int length, int start = 0, int runSize = int.MaxValue)
    {
        var request = new BlockRequest(this);
        Fill(request, operation, offset, length, start, runSize);
        return request;
    }

    internal void Fill(BlockRequest request, BlockOperation operation, long offset, int length, int start = 0, int runSize = int.MaxValue)
    {
        request.Operation = operation;
        request.Offset = offset;
        request.Length = length;
        request.ClearRuns();
        if (operation is not (BlockOperation.Read or BlockOperation.Write or BlockOperation.GetId))
            return;
        var count = 0;
        var memory = _memory.Take(_memory.Length).Address + start;
        for (var done = 0; done < length; done += runSize)
        {
            _runs[count++] = new IoVector(memory + done, (nuint)Math.Min(runSize, length - done));
            if (runSize == int.MaxValue)
                break;
        }

        request.SetRuns(_runs.AsSpan(0, count));
    }

    public void Dispose() => _memory.Dispose();
}
