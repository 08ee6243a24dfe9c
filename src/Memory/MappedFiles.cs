using System.Numerics;
using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>
/// The files of peers that are mapped, each once for all who map parts of it with the same rights: mapping a file in 65,535 pieces costs one
/// mapping. Safe from any thread; nothing is mapped or unmapped under its lock.
/// </summary>
/// <param name="budget">What pays for it.</param>
internal sealed class MappedFiles(MappingBudget budget)
{
    /// <summary>A file is mapped as a whole up to this size, and in aligned pieces of it above, where a request lies inside one.</summary>
    internal const ulong MaxWindow = 1UL << 40;

    // Of one file: the search for one that fits goes through all of them.
    private const int MaxPieces = 4096;

    private static readonly Fault TooManyPieces = new(Errno.ENOSPC, "the file is mapped in as many pieces as it may be: share it in one piece");

    private readonly Lock _lock = new();
    private readonly Dictionary<FileIdentity, List<MappedFile>> _files = [];

    /// <summary>Takes a hold on a mapping with a part of a file in it, which is made when there is none.</summary>
    /// <param name="account">Who holds it.</param>
    /// <param name="file">The file, whose descriptor allows the access.</param>
    /// <param name="status">Its status; the part lies within its size.</param>
    /// <param name="part">First byte and end, whole pages of <paramref name="page"/>.</param>
    /// <param name="page">The file's page size.</param>
    /// <param name="writable">Whether the memory may be written.</param>
    /// <param name="found">The mapping, to be released.</param>
    /// <param name="fault">ENOSPC: the budget is used up; what mmap answered.</param>
    internal bool TryTake(
        MappingAccount account, FileDescriptor file, in FileStatus status, (ulong First, ulong End) part, ulong page, bool writable,
        out MappedFile? found, out Fault fault)
    {
        var identity = new FileIdentity(status.Device, status.Inode, status.Born, writable, status.Born == 0 ? account : null);
        ulong mapped;
        lock (_lock)
        {
            fault = Fault.None;
            if (TryFind(identity, account, part, out found, out mapped, out var pieces))
                return true;
            if (pieces == MaxPieces)
            {
                fault = TooManyPieces;
                return false;
            }
        }

        if (!TryMap(account, file, identity, part, (status.Size + page - 1) & ~(page - 1), mapped, page, out var made, out fault))
            return false;
        lock (_lock)
        {
            // Another thread may have come first.
            if (!TryFind(identity, account, part, out found, out _, out _))
            {
                (CollectionsMarshal.GetValueRefOrAddDefault(_files, identity, out _) ??= []).Add(made!);
                made!.Add(account);
                found = made;
                return true;
            }
        }

        made!.Unmap();
        return true;
    }

    /// <summary>One holder less.</summary>
    /// <returns>Whether it was the last one; nobody finds the mapping any more then, and the caller unmaps it.</returns>
    internal bool Release(MappedFile file, MappingAccount account)
    {
        lock (_lock)
        {
            if (!file.Remove(account))
                return false;
            Forget(file);
            return true;
        }
    }

    /// <summary>A mapping is zeros: nobody is given it any more.</summary>
    /// <returns>Whom to tell.</returns>
    internal Action[] Lose(MappedFile file)
    {
        lock (_lock)
        {
            Forget(file);
            return file.Losers();
        }
    }

    private bool TryFind(in FileIdentity identity, MappingAccount account, (ulong First, ulong End) part, out MappedFile? found, out ulong mapped, out int pieces)
    {
        found = null;
        mapped = 0;
        pieces = 0;
        if (!_files.TryGetValue(identity, out var list))
            return false;
        foreach (var file in list)
        {
            if (file.Start <= part.First && file.End >= part.End)
            {
                file.Add(account);
                found = file;
                return true;
            }

            mapped = Math.Max(mapped, file.End);
        }

        pieces = list.Count;
        return false;
    }

    private void Forget(MappedFile file)
    {
        if (!_files.TryGetValue(file.Identity, out var list))
            return;
        list.Remove(file);
        if (list.Count == 0)
            _files.Remove(file.Identity);
    }

    // As much of the file as there is room for: what is mapped next of it costs nothing then.
    private bool TryMap(
        MappingAccount account, FileDescriptor file, in FileIdentity identity, (ulong First, ulong End) part, ulong fileEnd, ulong mapped, ulong page,
        out MappedFile? made, out Fault fault)
    {
        if (mapped > 0 && fileEnd <= MaxWindow && TryGrow(part, fileEnd, mapped, page, out var grown) &&
            TryMap(account, file, identity, grown, out made, out fault))
            return true;
        var size = Math.Min(MaxWindow, BitOperations.RoundUpToPowerOf2(fileEnd));
        for (; size > part.End - part.First; size /= 2)
        {
            var first = part.First & ~(size - 1);
            if (part.End - first > size)
                continue;
            if (TryMap(account, file, identity, (first, Math.Min(first + size, fileEnd)), out made, out fault))
                return true;
            if (fault.Errno is not (Errno.ENOSPC or Errno.ENOMEM))
                return false;
        }

        return TryMap(account, file, identity, part, out made, out fault);
    }

    // A file that grew since it was mapped may grow on: twice as much is mapped each time, so that it costs few mappings. Beyond the end there
    // is nothing to access, but there will be. Not on hugetlbfs, where a mapping makes the file as long as it is itself.
    private static bool TryGrow((ulong First, ulong End) part, ulong fileEnd, ulong mapped, ulong page, out (ulong First, ulong End) grown)
    {
        var mayBeHuge = page != (ulong)Environment.SystemPageSize;
        grown = mayBeHuge ? (mapped, fileEnd) : (0, Math.Min(MaxWindow, Math.Max(fileEnd, 2 * mapped)));
        return grown.First <= part.First && grown.End >= part.End;
    }

    private bool TryMap(
        MappingAccount account, FileDescriptor file, in FileIdentity identity, (ulong First, ulong End) part, out MappedFile? made, out Fault fault)
    {
        made = null;
        var length = part.End - part.First;
        if (!budget.TryCharge(account, length, out fault))
            return false;
        var mapped = new MappedFile(account, part.First, length, this, identity);
        if (mapped.TryMap(file, identity.Writable, out var error))
        {
            made = mapped;
            return true;
        }

        mapped.Unmap();
        fault = new Fault(error, "the host refused to map the region");
        return false;
    }
}
