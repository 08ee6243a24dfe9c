namespace Virtbus.Hardware.Probe;

/// <summary>
/// Registers of a <see cref="ScratchFunction"/> in BAR 0, byte offsets, 32 bits each, little endian. They take accesses of 4 bytes, and of 8
/// as two of 4; a narrower read gives its part of the register, a narrower write is lost.
/// </summary>
/// <remarks>
/// Causes of interrupts are bits: 0 a DMA transfer ended, 1 the doorbell rang, 2 software raised it. A cause that is enabled sends the message
/// of the vector with its number each time that it occurs, or holds the INTx line until it is cleared, depending on what is enabled in config
/// space.
/// </remarks>
public static class ScratchRegister
{
    /// <summary>0x00ED5642. Read-only.</summary>
    public const int Id = 0x00;

    /// <summary>0 for the physical function, else the virtual function's number plus one. Read-only.</summary>
    public const int Index = 0x04;

    /// <summary>Causes that occurred; write 1 to clear.</summary>
    public const int InterruptCause = 0x08;

    /// <summary>Causes that interrupt.</summary>
    public const int InterruptEnable = 0x0C;

    /// <summary>Writing a vector's number sends its message, enabled or not; with neither MSI nor MSI-X it sets cause 2. Reads as 0.</summary>
    public const int Raise = 0x10;

    /// <summary>Writing rings the doorbell, as signals of an attached eventfd do. Reads as 0.</summary>
    public const int Doorbell = 0x14;

    /// <summary>How often the doorbell rang. Read-only.</summary>
    public const int DoorbellCount = 0x18;

    /// <summary>What was written to the doorbell last. Read-only.</summary>
    public const int DoorbellValue = 0x1C;

    /// <summary>Bits 31-0 of the memory address of the next transfer.</summary>
    public const int DmaAddressLow = 0x20;

    /// <summary>Bits 63-32 of the memory address of the next transfer.</summary>
    public const int DmaAddressHigh = 0x24;

    /// <summary>Bytes of the next transfer, 1 to 65536.</summary>
    public const int DmaLength = 0x28;

    /// <summary>First byte of the next transfer in the memory of BAR 2.</summary>
    public const int DmaOffset = 0x2C;

    /// <summary>Writing starts a transfer: 1 from memory to BAR 2, 2 from BAR 2 to memory. Without effect while one is under way. Reads as 0.</summary>
    public const int DmaCommand = 0x30;

    /// <summary>0 nothing was done yet, 1 under way, 2 done, 3 memory could not be reached, 4 wrong length, offset or command. Read-only.</summary>
    public const int DmaStatus = 0x34;

    /// <summary>PASID of transfers in bits 19-0; bit 31 says that there is one. Read-only 0 in a virtual function.</summary>
    public const int DmaPasid = 0x38;

    /// <summary>Transfers that ended. Read-only.</summary>
    public const int DmaCount = 0x3C;

    /// <summary>Resets since the function was made; a reset does not clear it. Read-only.</summary>
    public const int ResetCount = 0x40;

    /// <summary>First of 3840 bytes of plain memory, for accesses of any size, up to offset 0x1000.</summary>
    public const int Memory = 0x100;
}
