using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>
/// A part of a file, mapped here, for one or many holders. Which holders there are is under the lock of <see cref="MappedFiles"/>; the rest is
/// fixed once it is mapped.
/// </summary>
internal sealed class MappedFile
{
    private readonly MappingAccount _payer;
    private readonly MappedFiles? _shared;
    private readonly List<(MappingAccount Account, int Count)> _users = [];
    private Mapping? _mapping;

    /// <summary>Describes a part that is not mapped yet; its cost is charged already.</summary>
    /// <param name="payer">The account that is charged.</param>
    /// <param name="start">Byte offset in the file, whole pages of it.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <param name="shared">Where it is found by others, under <paramref name="identity"/>; null for one holder.</param>
    /// <param name="identity">The file and its rights.</param>
    internal MappedFile(MappingAccount payer, ulong start, ulong length, MappedFiles? shared = null, in FileIdentity identity = default)
    {
        _payer = payer;
        _shared = shared;
        Start = start;
        Length = length;
        Identity = identity;
    }

    internal FileIdentity Identity { get; }

    internal ulong Start { get; }

    internal ulong Length { get; }

    internal ulong End => Start + Length;

    /// <summary>Host address of <see cref="Start"/>.</summary>
    internal nint Address => _mapping!.Address;

    /// <summary>Maps it. One that others find is guarded against shrinking.</summary>
    internal bool TryMap(FileDescriptor file, bool writable, out Errno error)
    {
        _mapping = Mapping.TryMap(file, Start, (nuint)Length, writable, out error, _shared is null ? null : Lose);
        return _mapping is not null;
    }

    /// <summary>Unmaps it, which takes its time when much of it was touched: not under a lock.</summary>
    internal void Unmap()
    {
        _mapping?.Dispose();
        _payer.Budget.Refund(_payer, Length);
    }

    /// <summary>One holder less; with the last one it is unmapped.</summary>
    internal void Release(MappingAccount account)
    {
        if (_shared is null || _shared.Release(this, account))
            Unmap();
    }

    /// <summary>One holder more. Under the lock.</summary>
    internal void Add(MappingAccount account)
    {
        var at = _users.FindIndex(user => ReferenceEquals(user.Account, account));
        if (at < 0)
            _users.Add((account, 1));
        else
            _users[at] = (account, _users[at].Count + 1);
    }

    /// <summary>One holder less. Under the lock.</summary>
    /// <returns>Whether it was the last one.</returns>
    internal bool Remove(MappingAccount account)
    {
        var at = _users.FindIndex(user => ReferenceEquals(user.Account, account));
        if (_users[at].Count == 1)
            _users.RemoveAt(at);
        else
            _users[at] = (account, _users[at].Count - 1);
        return _users.Count == 0;
    }

    /// <summary>Whom to tell of a loss. Under the lock.</summary>
    internal Action[] Losers() => [.. _users.Where(user => user.Account.Lost is not null).Select(user => user.Account.Lost!)];

    // On a thread of the guard, after zeros took its place.
    private void Lose()
    {
        foreach (var lost in _shared!.Lose(this))
            lost();
    }
}
