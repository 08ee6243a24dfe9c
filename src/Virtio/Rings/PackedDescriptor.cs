using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Virtbus.Virtio.Rings;

/// <summary>struct pvirtq_desc of a packed ring (VIRTIO 1.2, 2.8.14).</summary>
[StructLayout(LayoutKind.Sequential, Size = PackedRing.DescriptorSize)]
internal readonly unsafe struct PackedDescriptor
{
    private readonly ulong _address;
    private readonly ulong _rest;

    private PackedDescriptor(ulong address, ulong rest)
    {
        _address = address;
        _rest = rest;
    }

    internal ulong Address => _address;

    internal uint Length => (uint)_rest;

    internal ushort Id => (ushort)(_rest >> 32);

    internal ushort Flags => (ushort)(_rest >> 48);

    /// <summary>Length, id and flags as the one word that they are written and read in.</summary>
    internal static ulong Rest(uint length, ushort id, ushort flags) => length | ((ulong)id << 32) | ((ulong)flags << 48);

    // SAFETY: callers pass a place inside a checked ring or table, aligned to 8 bytes. The word with the flags first, which gives the rest away; each
    // once: the compiler may not read a field twice.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static PackedDescriptor ReadOnce(PackedDescriptor* place)
    {
        var rest = Volatile.Read(ref *((ulong*)place + 1));
        return new PackedDescriptor(Volatile.Read(ref *(ulong*)place), rest);
    }

    // SAFETY: as for ReadOnce.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static ushort ReadFlags(PackedDescriptor* place) => Volatile.Read(ref *((ushort*)place + 7));

    // SAFETY: as for ReadOnce. One store, after all that were made before it: the flags are never seen without length and id (2.8.21.2).
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void WriteRest(PackedDescriptor* place, ulong rest) => Volatile.Write(ref *((ulong*)place + 1), rest);
}
