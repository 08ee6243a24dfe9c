using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Virtbus.Virtio.Rings;

/// <summary>struct virtq_desc of a split ring (VIRTIO 1.2, 2.7.5).</summary>
[StructLayout(LayoutKind.Sequential, Size = SplitRing.DescriptorSize)]
internal readonly unsafe struct SplitDescriptor
{
    private readonly ulong _address;
    private readonly ulong _rest;

    private SplitDescriptor(ulong address, ulong rest)
    {
        _address = address;
        _rest = rest;
    }

    internal ulong Address => _address;

    internal uint Length => (uint)_rest;

    internal ushort Flags => (ushort)(_rest >> 32);

    internal ushort Next => (ushort)(_rest >> 48);

    // SAFETY: callers pass a place inside a checked table. Two volatile loads: the compiler may not read a field twice.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static SplitDescriptor ReadOnce(SplitDescriptor* place) =>
        new(Volatile.Read(ref *(ulong*)place), Volatile.Read(ref *((ulong*)place + 1)));
}
