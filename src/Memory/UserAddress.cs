namespace Virtbus.Memory;

/// <summary>A virtual address in the peer's own process. It means nothing here but a way to name a place in a region that the peer shared.</summary>
/// <param name="Value">The address in bytes.</param>
public readonly record struct UserAddress(ulong Value)
{
    /// <inheritdoc/>
    public override string ToString() => $"user 0x{Value:x}";
}
