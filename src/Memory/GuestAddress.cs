namespace Virtbus.Memory;

/// <summary>An address in a guest's physical memory, as a front end numbers it. Compare <see cref="Iova"/> and <see cref="UserAddress"/>.</summary>
/// <param name="Value">The address in bytes.</param>
public readonly record struct GuestAddress(ulong Value)
{
    /// <inheritdoc/>
    public override string ToString() => $"guest 0x{Value:x}";
}
