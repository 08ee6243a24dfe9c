using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>
/// How many mappings, and how many bytes of addresses, may be made of files here, so that peers never use up what the process needs for
/// itself: a process that cannot map its own code any more ends. Each <see cref="MappingAccount"/> has its reserve for sure. Above, it gets
/// at most as much as is left then for the others, and an eighth of the whole is for reserves alone, so that who comes later has one; ENOSPC
/// beyond. Safe from any thread.
/// </summary>
public sealed class MappingBudget
{
    // Shares of the whole that one account reserves at most, so that thousands of sockets can be served.
    private const int MostAccounts = 2048;
    private const int ReservedMappings = 16;
    private const ulong ReservedBytes = 32UL << 30;
    // What the process reserves for memory of its own (DMA buffers of drivers, memory disks): one part in so many.
    private const int OwnShare = 8;
    // What is for reserves alone: one part in so many.
    private const int LateShare = 8;
    // The kernel lets some hosts map far more; the table that guards mappings against shrinking is searched from end to end.
    private const int MostMappings = 1 << 16;

    private readonly Lock _lock = new();
    private readonly Fault _noMapping;
    private readonly Fault _noBytes;
    private readonly Fault _noMappingAbove;
    private readonly Fault _noBytesAbove;
    private int _mappings;
    private ulong _bytes;

    /// <summary>Makes a budget.</summary>
    /// <param name="mappings">The most mappings.</param>
    /// <param name="bytes">The most bytes.</param>
    internal MappingBudget(int mappings, ulong bytes)
    {
        MaxMappings = mappings;
        MaxBytes = bytes;
        AccountMappings = Math.Clamp(mappings / MostAccounts, 1, ReservedMappings);
        AccountBytes = Math.Min(ReservedBytes, bytes / MostAccounts);
        _noMapping = new Fault(Errno.ENOSPC,
            $"the {mappings} mappings that this process has for files of peers are in use or reserved: let a client go, or raise vm.max_map_count and start the fabric again");
        _noBytes = new Fault(Errno.ENOSPC,
            $"the {bytes >> 20} MiB of addresses that this process has for files of peers are in use or reserved: let a client go that shares huge files, or raise the limit of address space (ulimit -v), and start the fabric again");
        _noMappingAbove = new Fault(Errno.ENOSPC,
            $"this one has its share of the {mappings} mappings that this process has for files of peers: share few and large files, or raise vm.max_map_count and start the fabric again");
        _noBytesAbove = new Fault(Errno.ENOSPC,
            $"this one has its share of the {bytes >> 20} MiB of addresses that this process has for files of peers: share smaller files, or raise the limit of address space (ulimit -v), and start the fabric again");
        Files = new MappedFiles(this);
    }

    /// <summary>The budget of this process: three quarters of what the host lets it map; the rest is the runtime's, for code, stacks and its heap.</summary>
    public static MappingBudget Process { get; } = new(Math.Min(MappingLimits.Count / 4 * 3, MostMappings), MappingLimits.GetFreeBytes() / 4 * 3);

    /// <summary>The account of the process itself, for memory that is no peer's.</summary>
    internal static MappingAccount Own { get; } = MakeOwn();

    /// <summary>The most mappings at a time.</summary>
    public int MaxMappings { get; }

    /// <summary>The most bytes of addresses at a time.</summary>
    public ulong MaxBytes { get; }

    /// <summary>How many mappings an account reserves.</summary>
    internal int AccountMappings { get; }

    /// <summary>How many bytes of addresses an account reserves.</summary>
    internal ulong AccountBytes { get; }

    /// <summary>How many mappings are in use or reserved.</summary>
    public int Mappings
    {
        get
        {
            lock (_lock)
                return _mappings;
        }
    }

    /// <summary>How many bytes of addresses are in use or reserved.</summary>
    public ulong Bytes
    {
        get
        {
            lock (_lock)
                return _bytes;
        }
    }

    /// <summary>The files of peers that are mapped.</summary>
    internal MappedFiles Files { get; }

    /// <summary>Reserves for an account.</summary>
    internal bool TryReserve(MappingAccount account, int mappings, ulong bytes, out Fault fault)
    {
        lock (_lock)
            return TrySet(account, mappings, bytes, account.UsedMappings, account.UsedBytes, out fault);
    }

    /// <summary>Takes what one more mapping needs, before it is made.</summary>
    internal bool TryCharge(MappingAccount account, ulong bytes, out Fault fault)
    {
        lock (_lock)
        {
            var (usedMappings, usedBytes) = (account.UsedMappings + 1, account.UsedBytes + bytes);
            return HasRoomAbove(account, usedMappings, usedBytes, out fault) &&
                TrySet(account, account.ReservedMappings, account.ReservedBytes, usedMappings, usedBytes, out fault);
        }
    }

    /// <summary>Gives it back, when the mapping is gone.</summary>
    internal void Refund(MappingAccount account, ulong bytes)
    {
        lock (_lock)
            Set(account, account.ReservedMappings, account.ReservedBytes, account.UsedMappings - 1, account.UsedBytes - bytes);
    }

    /// <summary>Takes an account's reserve away. What it has mapped still counts until it is gone.</summary>
    internal void Close(MappingAccount account)
    {
        lock (_lock)
            Set(account, 0, 0, account.UsedMappings, account.UsedBytes);
    }

    private static MappingAccount MakeOwn()
    {
        var account = new MappingAccount(null, Process);
        _ = Process.TryReserve(account, Process.MaxMappings / OwnShare, Process.MaxBytes / OwnShare, out _);
        return account;
    }

    // With the lock. Who takes the more, the less is left: one alone gets half, and no number of them gets all.
    private bool HasRoomAbove(MappingAccount account, int usedMappings, ulong usedBytes, out Fault fault)
    {
        fault = Fault.None;
        if (usedMappings > account.ReservedMappings && !Leaves(
            (ulong)(MaxMappings - (MaxMappings / LateShare)), (ulong)(_mappings - account.CostInMappings), (ulong)account.ReservedMappings, (ulong)usedMappings))
            fault = _noMappingAbove;
        else if (usedBytes > account.ReservedBytes &&
            !Leaves(MaxBytes - (MaxBytes / LateShare), _bytes - account.CostInBytes, account.ReservedBytes, usedBytes))
            fault = _noBytesAbove;
        return fault == Fault.None;
    }

    // Whether as much is left as the account has above its reserve.
    private static bool Leaves(ulong whole, ulong others, ulong reserved, ulong used)
    {
        var free = others < whole ? whole - others : 0;
        return used <= free && used - reserved <= free - used;
    }

    // With the lock. An account costs what it reserved or what it uses, whichever is more.
    private bool TrySet(MappingAccount account, int reservedMappings, ulong reservedBytes, int usedMappings, ulong usedBytes, out Fault fault)
    {
        var mappings = _mappings - account.CostInMappings + Math.Max(reservedMappings, usedMappings);
        var bytes = _bytes - account.CostInBytes + Math.Max(reservedBytes, usedBytes);
        fault = mappings > MaxMappings ? _noMapping : bytes > MaxBytes ? _noBytes : Fault.None;
        if (fault != Fault.None)
            return false;
        Set(account, reservedMappings, reservedBytes, usedMappings, usedBytes);
        return true;
    }

    private void Set(MappingAccount account, int reservedMappings, ulong reservedBytes, int usedMappings, ulong usedBytes)
    {
        _mappings -= account.CostInMappings;
        _bytes -= account.CostInBytes;
        (account.ReservedMappings, account.ReservedBytes, account.UsedMappings, account.UsedBytes) = (reservedMappings, reservedBytes, usedMappings, usedBytes);
        _mappings += account.CostInMappings;
        _bytes += account.CostInBytes;
    }
}
