namespace Virtbus.Hardware.Adapter;

/// <summary>Bits of the status register.</summary>
public static class AdapterStatus
{
    /// <summary>Commands are taken.</summary>
    public const uint Enabled = 1;

    /// <summary>The link carries.</summary>
    public const uint LinkUp = 2;

    /// <summary>The function stopped; the error register says why. Taking the enable bit back and setting it again mends it.</summary>
    public const uint Error = 4;

    /// <summary>The physical function suspended this one.</summary>
    public const uint Suspended = 8;
}
