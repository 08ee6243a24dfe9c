namespace Virtbus.Provisioning;

/// <summary>A definition as it lasts.</summary>
/// <param name="Name">The function's name.</param>
/// <param name="Kind">Its kind.</param>
/// <param name="Parent">What it hangs at; null for nothing.</param>
/// <param name="Values">The values that were set, as text.</param>
/// <param name="IsActive">Whether it was active, and is to be again.</param>
/// <param name="Place">Where it was.</param>
/// <param name="Order">Grows with each definition: those that last come back in this order.</param>
public sealed record StoredDefinition(
    string Name, string Kind, string? Parent, IReadOnlyDictionary<string, string> Values, bool IsActive, string? Place, long Order);
