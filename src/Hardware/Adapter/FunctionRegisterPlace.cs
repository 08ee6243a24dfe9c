namespace Virtbus.Hardware.Adapter;

/// <summary>Where a function's registers and doorbells are in the BARs by which it is reached; what the layout of its make says counts from there.</summary>
/// <param name="Registers">First byte in <see cref="RegisterBar"/>.</param>
/// <param name="Doorbells">First byte in <see cref="DoorbellBar"/>.</param>
internal readonly record struct FunctionRegisterPlace(ulong Registers, ulong Doorbells)
{
    /// <summary>The BAR with registers.</summary>
    public const int RegisterBar = 0;

    /// <summary>The BAR with doorbells.</summary>
    public const int DoorbellBar = 2;
}
