using System.Runtime.CompilerServices;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Memory;

/// <content>What accesses do, inside of a section of an <see cref="AccessSlot"/>.</content>
public sealed partial class IoAddressSpace
{
    // A section of one access ends after so many bytes, so that an unmap never waits for a long copy.
    private const int SectionBytes = 1 << 16;

    /// <summary>
    /// One step of a read, inside a section of this space: bytes of this process are copied; where a peer's memory begins, the step ends, and
    /// the caller asks the peer after the section.
    /// </summary>
    /// <param name="address">Address of the whole access.</param>
    /// <param name="destination">All of its bytes.</param>
    /// <param name="done">How many of them are there.</param>
    /// <param name="hint">The caller's, as for <see cref="TranslationTable.TryFind"/>.</param>
    /// <param name="remote">The peer to ask for what comes next, or null.</param>
    /// <param name="count">How many bytes it has.</param>
    /// <returns>None, or why the next byte cannot be reached.</returns>
    internal Errno Read(ulong address, Span<byte> destination, ref int done, ref int hint, out IRemoteMemory? remote, out int count)
    {
        var table = Volatile.Read(ref _table);
        var end = Math.Min(destination.Length, (long)done + SectionBytes);
        do
        {
            var error = Find(table, address, done, destination.Length, DmaAccess.Read, ref hint, out var host, out remote, out count);
            if (error != Errno.None || remote is not null)
                return error;
            count = Math.Min(count, SectionBytes);
            HostCopy.Read(host, destination.Slice(done, count));
            done += count;
        }
        while (done < end);
        return Errno.None;
    }

    /// <summary>One step of a write, as <see cref="Read"/>. What is copied is marked in the logs of the space and the port.</summary>
    internal Errno Write(
        ulong address, ReadOnlySpan<byte> source, ref int done, ref int hint, DmaPort? port, out IRemoteMemory? remote, out int count)
    {
        var table = Volatile.Read(ref _table);
        var end = Math.Min(source.Length, (long)done + SectionBytes);
        do
        {
            var error = Find(table, address, done, source.Length, DmaAccess.Write, ref hint, out var host, out remote, out count);
            if (error != Errno.None || remote is not null)
                return error;
            count = Math.Min(count, SectionBytes);
            HostCopy.Write(host, source.Slice(done, count));
            // After the copy: who clears the mark before it, and then reads the page, finds the mark again.
            var at = new Iova(address + (uint)done);
            port?.MarkLog(at, (uint)count);
            MarkLog(at, (uint)count);
            done += count;
        }
        while (done < end);
        return Errno.None;
    }

    /// <summary>The host memory behind an address, as <see cref="DmaSection.Translate"/> says; in a section of this space.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal Errno Translate(ulong address, uint length, DmaAccess access, ref DmaHint hint, out IoVector run)
    {
        ref var found = ref hint.Found;
        // Who takes a range away moves the version on, and waits for this section then.
        var isKnown = hint.Space == this && hint.Version == Volatile.Read(ref _version);
        if (!isKnown || address - found.Start >= found.Size)
        {
            found = ref hint.Other;
            if ((!isKnown || address - found.Start >= found.Size) && !TryRemember(address, isKnown, ref hint))
            {
                run = default;
                return Errno.EFAULT;
            }
        }

        run = default;
        if ((found.Access & access) != access)
            return Errno.EACCES;
        var offset = address - found.Start;
        var isPeers = found.Remote >= 0;
        run = new IoVector(isPeers ? 0 : found.Target + (nint)offset, (nuint)Math.Min(length, found.Size - offset));
        return isPeers ? Errno.EOPNOTSUPP : Errno.None;
    }

    // What is found becomes the other one, and that the first.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private bool TryRemember(ulong address, bool isKnown, ref DmaHint hint)
    {
        // Before the look-up: what is taken away after it moves the version on.
        var version = Volatile.Read(ref _version);
        if (isKnown && version == hint.Version)
            hint.Found = hint.Other;
        else
            hint.Found.Size = 0;
        hint.Space = null;
        if (!Volatile.Read(ref _table).TryFind(address, ref hint.Guess, out hint.Other))
            return false;
        (hint.Space, hint.Version) = (this, version);
        return true;
    }

    /// <summary>Marks in the space's log what was written. In a section of this space, or before the thread that stops the log goes on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void MarkLog(Iova address, ulong length) => Volatile.Read(ref _log)?.Mark(address, length);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Errno Find(
        TranslationTable table, ulong address, int done, int length, DmaAccess access, ref int hint, out nint host, out IRemoteMemory? remote, out int count)
    {
        var at = address + (uint)done;
        host = 0;
        count = 0;
        remote = null;
        // The end of the address space is the end: the addresses of an access do not wrap.
        if (at < address || !table.TryFind(at, ref hint, out var found))
            return Errno.EFAULT;
        if ((found.Access & access) == DmaAccess.None)
            return Errno.EACCES;
        var offset = at - found.Start;
        count = (int)Math.Min((uint)(length - done), found.Size - offset);
        if (found.Remote < 0)
            host = found.Target + (nint)offset;
        else
            remote = Volatile.Read(ref _peers)[found.Remote].Memory;
        return Errno.None;
    }
}
