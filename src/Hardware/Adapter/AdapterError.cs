namespace Virtbus.Hardware.Adapter;

/// <summary>Why a function or a queue set stopped.</summary>
internal enum AdapterError : uint
{
    /// <summary>It did not.</summary>
    None = 0,
    /// <summary>Memory could not be read or written.</summary>
    DmaFault = 1,
    /// <summary>An index went by more than the ring holds.</summary>
    BadIndex = 2,
    /// <summary>A transmit descriptor with a length or flags that there are not, or a frame that is too long or too short.</summary>
    BadDescriptor = 3,
    /// <summary>The function was enabled with a ring that is not aligned or has no possible size.</summary>
    BadRing = 4,
    /// <summary>The adapter itself failed.</summary>
    Internal = 5,
}
