using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

// The short way, for buffers that are taken and handed back in one stay: nothing has to be noted of them, as the stay keeps their memory.
public abstract partial class DeviceRing
{
    /// <summary>
    /// Takes the next available buffers, as long as each is one descriptor of one direction over one run of memory that is here, and begins a stay. What
    /// is of another kind or wrong is left for <see cref="Take"/>. In the stay they are copied, each handed back by <see cref="CompleteRun"/> or the last of
    /// them put back by <see cref="PutBackRuns"/>; nothing in it waits or throws.
    /// </summary>
    /// <param name="runs">Where they go.</param>
    /// <param name="isWritable">Whether those that the device writes are wanted, else those that it reads.</param>
    /// <param name="stay">The stay, to be left; none when none was taken.</param>
    /// <returns>How many were taken.</returns>
    public int TakeRuns(Span<RingRun> runs, bool isWritable, out DmaSection stay)
    {
        _isHeldUp = false;
        stay = default;
        // What is handed back out of order comes first.
        if (IsFar || _order is { IsEmpty: false } || !HasAvailable() || !TryEnter(out var section, out _))
            return 0;
        // Writes are marked elsewhere. A log that starts after this look waits for the stay to end before it counts.
        var taken = isWritable && _dma!.IsLogged ? 0 : FindRuns(runs, isWritable ? DmaAccess.Write : DmaAccess.Read, section);
        if (taken == 0)
            section.Leave();
        else
            stay = section;
        return taken;
    }

    /// <summary>Hands a buffer back that was taken by <see cref="TakeRuns"/>, in the order of their taking; the driver sees it after <see cref="Publish"/>.</summary>
    /// <param name="run">The buffer.</param>
    /// <param name="written">Bytes written, from its start.</param>
    public abstract void CompleteRun(in RingRun run, uint written);

    /// <summary>Puts back the buffers that were taken last by <see cref="TakeRuns"/>, as if they had not been.</summary>
    /// <param name="count">How many.</param>
    public abstract void PutBackRuns(int count);

    private protected abstract int FindRuns(Span<RingRun> runs, DmaAccess access, in DmaSection section);

    /// <summary>Adds what one descriptor names; false for what is not one run of memory that is here.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private protected unsafe bool TryFindRun(ulong address, uint length, ushort head, DmaAccess access, in DmaSection section, out RingRun run)
    {
        run = default;
        if (length - 1 >= MaxRun || section.Translate(new Iova(address), length, access, ref _hint, out var memory) != Errno.None || memory.Length != length)
            return false;
        run = new RingRun(memory, head);
        // As in TryAddBuffer: the batch comes over while it is looked up, the second line of a small frame too.
        // SAFETY: a prefetch reads nothing and faults nowhere.
        if (Sse.IsSupported)
        {
            Sse.Prefetch0((void*)memory.Address);
            Sse.Prefetch0((byte*)memory.Address + 64);
        }

        return true;
    }
}
