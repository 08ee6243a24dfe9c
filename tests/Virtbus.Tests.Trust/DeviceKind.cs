namespace Virtbus.Tests.Trust;

/// <summary>Kinds of devices that a daemon hands to users.</summary>
internal enum DeviceKind
{
    /// <summary>A serial port: I/O ports and INTx, no DMA.</summary>
    Serial,
    /// <summary>A virtual function of a merlin adapter: rings in memory, MSI-X, and migration with one of its drivers.</summary>
    Nic,
    /// <summary>A scratch function: registers, DMA, doorbell, mapped memory, MSI-X.</summary>
    Scratch,
}
