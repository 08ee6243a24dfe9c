namespace Virtbus.Hardware.Adapter;

/// <summary>Byte offsets of a harrier adapter's registers, 32 bits each.</summary>
public enum HarrierRegister : uint
{
    /// <summary>Network parts in bits 0-7, vDPA parts in bits 8-15. Read-only.</summary>
    Capabilities = 0x00,
    /// <summary>Bits 0-31 of the first Ethernet address. Read-only.</summary>
    AddressLow = 0x04,
    /// <summary>Bits 32-47 of the first Ethernet address. Read-only.</summary>
    AddressHigh = 0x08,
    /// <summary>Argument of the next command.</summary>
    Argument = 0x10,
    /// <summary>Writing executes a <see cref="HarrierCommand"/>. Write-only.</summary>
    Command = 0x14,
    /// <summary>0, or the error number of the last command. Read-only.</summary>
    Status = 0x18,
    /// <summary>Result of the last command. Read-only.</summary>
    Result = 0x1C,
}
