namespace Virtbus.Memory;

/// <summary>An address that a device puts on its bus for DMA, looked up in an <see cref="IoMap"/>. Without an IOMMU between, it equals the guest address.</summary>
/// <param name="Value">The address in bytes.</param>
public readonly record struct Iova(ulong Value)
{
    /// <inheritdoc/>
    public override string ToString() => $"iova 0x{Value:x}";
}
