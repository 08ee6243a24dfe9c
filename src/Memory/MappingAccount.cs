using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>
/// On whose account files are mapped: that of one peer, from its connect to its going. Two accounts that map the same file with the same
/// rights share one mapping; the one that came first is charged. Safe from any thread.
/// </summary>
public sealed class MappingAccount : IDisposable
{
    /// <summary>Makes an account that reserves nothing yet.</summary>
    /// <param name="lost">
    /// Called when a file was cut, or has no page left, under an access: the whole mapping is zeros then, shared with nobody, and no use to any
    /// account that has it. Once a mapping, on a thread of its own; it has to be short.
    /// </param>
    /// <param name="budget">What it draws from; that of the process when left out.</param>
    public MappingAccount(Action? lost = null, MappingBudget? budget = null)
    {
        Lost = lost;
        Budget = budget ?? MappingBudget.Process;
    }

    internal Action? Lost { get; }

    internal MappingBudget Budget { get; }

    // All under the budget's lock.
    internal int ReservedMappings { get; set; }

    internal ulong ReservedBytes { get; set; }

    internal int UsedMappings { get; set; }

    internal ulong UsedBytes { get; set; }

    internal int CostInMappings => Math.Max(ReservedMappings, UsedMappings);

    internal ulong CostInBytes => Math.Max(ReservedBytes, UsedBytes);

    /// <summary>
    /// Reserves <see cref="MappingBudget.AccountMappings"/> and <see cref="MappingBudget.AccountBytes"/>, which nobody else can use up then.
    /// </summary>
    /// <param name="fault">ENOSPC: as much as there is, is reserved or in use.</param>
    /// <returns>Whether they are reserved.</returns>
    public bool TryReserve(out Fault fault) => Budget.TryReserve(this, Budget.AccountMappings, Budget.AccountBytes, out fault);

    /// <summary>Gives the reserve back. Memory that is still mapped on this account stays, and counts until it is let go of.</summary>
    public void Dispose() => Budget.Close(this);
}
