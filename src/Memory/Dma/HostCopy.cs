using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Virtbus.Memory.Dma;

/// <summary>
/// Copies between a device and memory that a peer may write at any moment. Aligned words of 1, 2, 4 and 8 bytes go as one access each, with
/// acquire or release: indexes are such words.
/// </summary>
internal static unsafe class HostCopy
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Read(nint address, Span<byte> destination)
    {
        ref var first = ref MemoryMarshal.GetReference(destination);
        // SAFETY: the caller found the range in a table inside a section, or holds the memory; the length of the span was cut to it.
        switch (destination.Length)
        {
            case 1:
                first = Volatile.Read(ref *(byte*)address);
                break;
            case 2 when (address & 1) == 0:
                Unsafe.WriteUnaligned(ref first, Volatile.Read(ref *(ushort*)address));
                break;
            case 4 when (address & 3) == 0:
                Unsafe.WriteUnaligned(ref first, Volatile.Read(ref *(uint*)address));
                break;
            case 8 when (address & 7) == 0:
                Unsafe.WriteUnaligned(ref first, Volatile.Read(ref *(ulong*)address));
                break;
            default:
                new ReadOnlySpan<byte>((void*)address, destination.Length).CopyTo(destination);
                break;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Write(nint address, ReadOnlySpan<byte> source)
    {
        ref var first = ref MemoryMarshal.GetReference(source);
        // SAFETY: as in Read.
        switch (source.Length)
        {
            case 1:
                Volatile.Write(ref *(byte*)address, first);
                break;
            case 2 when (address & 1) == 0:
                Volatile.Write(ref *(ushort*)address, Unsafe.ReadUnaligned<ushort>(ref first));
                break;
            case 4 when (address & 3) == 0:
                Volatile.Write(ref *(uint*)address, Unsafe.ReadUnaligned<uint>(ref first));
                break;
            case 8 when (address & 7) == 0:
                Volatile.Write(ref *(ulong*)address, Unsafe.ReadUnaligned<ulong>(ref first));
                break;
            default:
                source.CopyTo(new Span<byte>((void*)address, source.Length));
                break;
        }
    }
}
