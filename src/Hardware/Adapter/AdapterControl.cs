namespace Virtbus.Hardware.Adapter;

/// <summary>Bits of the control register.</summary>
public static class AdapterControl
{
    /// <summary>Commands are taken and events written. Taking it back stops the function and destroys its queue sets.</summary>
    public const uint Enable = 1;

    /// <summary>Puts the function's registers and queues into the state after power-on; reads as 1 until that is done.</summary>
    public const uint Reset = 2;
}
