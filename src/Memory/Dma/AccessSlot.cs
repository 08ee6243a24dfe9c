using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Virtbus.Memory.Dma;

/// <summary>
/// One thread's mark that it is inside an I/O address space: between look-up and end of copy. Whoever takes memory away first makes it
/// unreachable, then waits in <see cref="Drain"/> until nobody is inside who may have seen it.
/// </summary>
/// <remarks>
/// A section is short and bounded: no lock that is held across a wait, no wait for a peer, no callback is in it. So a drain ends, and code
/// that runs in a callback may drain too. Only the thread itself writes its slot.
/// </remarks>
internal sealed class AccessSlot
{
    private const ulong Turn = 1UL << 32;
    private const ulong TurnMask = ~(Turn - 1);
    private static readonly Lock Registry = new();
    private static readonly Stack<AccessSlot> Free = new();
    private static AccessSlot[] _all = [];

    [ThreadStatic]
    private static AccessSlot? _mine;

    [ThreadStatic]
    private static Lease? _lease;

    private Padded _padded;

    private AccessSlot()
    {
    }

    /// <summary>The slot of this thread.</summary>
    internal static AccessSlot Mine
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => _mine ?? Register();
    }

    /// <summary>Whether this thread is in a section.</summary>
    internal bool IsInside => (uint)_padded.Word != 0;

    /// <summary>Begins a section in the space with this number. What is read from here on, a drain that began before does not miss.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Enter(uint space)
    {
        // The turn makes each section different, so that a drain does not wait for later ones. The exchange is a full fence: the mark is
        // seen before anything that is read in the section.
        Interlocked.Exchange(ref _padded.Word, ((_padded.Word + Turn) & TurnMask) | space);
    }

    /// <summary>Ends the section.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Leave() => Volatile.Write(ref _padded.Word, _padded.Word & TurnMask);

    /// <summary>Waits for the end of every section that is under way in a space. Never called from within one.</summary>
    /// <param name="space">The space's number; 0 for any.</param>
    internal static void Drain(uint space)
    {
        System.Diagnostics.Debug.Assert(!Mine.IsInside, "a section waits for itself");
        Interlocked.MemoryBarrier();
        foreach (var slot in Volatile.Read(ref _all))
        {
            var seen = Volatile.Read(ref slot._padded.Word);
            var inside = (uint)seen;
            if (inside == 0 || (space != 0 && inside != space))
                continue;
            var spinner = default(SpinWait);
            while (Volatile.Read(ref slot._padded.Word) == seen)
                spinner.SpinOnce(sleep1Threshold: 50);
        }
    }

    /// <summary>
    /// Waits until each write that was made before this call, and did not see what the caller has published, is in memory: those of sections, and
    /// those that a device makes by itself and marks afterwards.
    /// </summary>
    /// <param name="space">As for <see cref="Drain"/>.</param>
    internal static void WaitForWrites(uint space)
    {
        Drain(space);
        Interlocked.MemoryBarrierProcessWide();
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static AccessSlot Register()
    {
        AccessSlot? slot;
        lock (Registry)
        {
            if (!Free.TryPop(out slot))
            {
                slot = new AccessSlot();
                Volatile.Write(ref _all, [.. _all, slot]);
            }
        }

        _lease = new Lease(slot);
        return _mine = slot;
    }

    // Alive as long as its thread: the finalizer hands the slot to the next one.
    private sealed class Lease(AccessSlot slot)
    {
#pragma warning disable MA0055 // There is no other sign of a thread's end.
        ~Lease()
#pragma warning restore MA0055
        {
            lock (Registry)
                Free.Push(slot);
        }
    }

    // Two cache lines: a thread's mark shares none with another thread's.
    [StructLayout(LayoutKind.Explicit, Size = 128)]
    private struct Padded
    {
        [FieldOffset(64)]
        public ulong Word;
    }
}
