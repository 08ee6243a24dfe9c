namespace Virtbus.Memory;

/// <summary>What a device may do with memory, or wants to.</summary>
[Flags]
public enum DmaAccess
{
    /// <summary>Nothing.</summary>
    None = 0,
    /// <summary>The device reads it.</summary>
    Read = 1,
    /// <summary>The device writes it.</summary>
    Write = 2,
    /// <summary>Both.</summary>
    ReadWrite = Read | Write,
}
