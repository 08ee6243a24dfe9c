using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>A copy of an indirect descriptor table (VIRTIO 1.2, 2.7.5.3 and 2.8.7), made once for each chain that has one: what is walked does not change.</summary>
internal sealed unsafe class IndirectTable
{
    // One may have more entries than the queue has descriptors: drivers size it by the device's own limit.
    private const int MaxEntries = 1024;

    // Pinned: walked by pointer like the ring's own table.
    private readonly SplitDescriptor[] _entries = GC.AllocateArray<SplitDescriptor>(MaxEntries, pinned: true);

    /// <summary>The entries; those of the last table, and what is left of longer ones behind them.</summary>
    internal SplitDescriptor* Entries => (SplitDescriptor*)Unsafe.AsPointer(ref MemoryMarshal.GetArrayDataReference(_entries));

    /// <summary>The entries as those of a packed ring.</summary>
    internal PackedDescriptor* PackedEntries => (PackedDescriptor*)Entries;

    /// <summary>What is wrong with the descriptor of a table; null when nothing is.</summary>
    internal static string? WhatIsWrong(uint length, ushort flags, bool isAllowed, bool inIndirect) => length switch
    {
        _ when !isAllowed => "an indirect descriptor was used without VIRTIO_F_INDIRECT_DESC",
        _ when inIndirect => "an indirect table holds an indirect descriptor",
        _ when (flags & SplitRing.VIRTQ_DESC_F_NEXT) != 0 => "an indirect descriptor has the NEXT flag",
        0 => "an indirect table is empty",
        _ when length % SplitRing.DescriptorSize != 0 => "an indirect table's length is no multiple of 16",
        > MaxEntries * SplitRing.DescriptorSize => "an indirect table has more than 1024 entries",
        _ => null,
    };

    /// <summary>The bytes that a table is copied to.</summary>
    internal Span<byte> Bytes(IovaRange table) => MemoryMarshal.AsBytes(_entries.AsSpan())[..(int)table.Size];

    /// <summary>Copies a table whole, over the borders of ranges.</summary>
    /// <param name="place">Where it is; nothing is wrong with it.</param>
    /// <param name="section">The stay that it is looked up in.</param>
    /// <param name="hint">The ring's memory of look-ups.</param>
    /// <param name="at">Where it ended.</param>
    /// <returns>None, or as <see cref="DmaSection.Translate"/> says of that address.</returns>
    internal Errno Copy(IovaRange place, in DmaSection section, ref DmaHint hint, out ulong at)
    {
        var table = Bytes(place);
        at = place.Start.Value;
        for (var done = 0; done < table.Length;)
        {
            // The end of the address space is the end.
            at = place.Start.Value + (uint)done;
            if (at < place.Start.Value)
                return Errno.EFAULT;
            var error = section.Translate(new Iova(at), (uint)(table.Length - done), DmaAccess.Read, ref hint, out var run);
            if (error != Errno.None)
                return error;
            run.AsSpan().CopyTo(table[done..]);
            done += (int)run.Length;
        }

        return Errno.None;
    }
}
