using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Tests.Memory.Dma;

/// <summary>A peer's memory, that is here after all.</summary>
internal sealed class PeerMemory(ulong start, int size) : IRemoteMemory
{
    internal byte[] Bytes { get; } = new byte[size];

    internal int Calls { get; private set; }

    internal Fault Answer { get; set; }

    internal Action? During { get; set; }

    public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
    {
        if (TryCall(out fault))
            Bytes.AsSpan((int)(address.Value - start), destination.Length).CopyTo(destination);
        return fault.Errno == Errno.None;
    }

    public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (TryCall(out fault))
            source.CopyTo(Bytes.AsSpan((int)(address.Value - start)));
        return fault.Errno == Errno.None;
    }

    private bool TryCall(out Fault fault)
    {
        Calls++;
        During?.Invoke();
        fault = Answer;
        return fault.Errno == Errno.None;
    }
}
