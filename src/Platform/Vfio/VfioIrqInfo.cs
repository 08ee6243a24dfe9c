namespace Virtbus.Platform;

/// <summary>Properties of an interrupt index; values as in Linux's vfio.h.</summary>
[Flags]
public enum VfioIrqFlags : uint
{
    /// <summary>None.</summary>
    None = 0,
    /// <summary>Can signal an eventfd.</summary>
    EventFd = 1,
    /// <summary>Can be masked.</summary>
    Maskable = 2,
    /// <summary>Masks itself when it fires.</summary>
    AutoMasked = 4,
    /// <summary>The set of enabled vectors cannot grow while enabled.</summary>
    NoResize = 8,
}

/// <summary>What an interrupt index is (VFIO_DEVICE_GET_IRQ_INFO).</summary>
/// <param name="Flags">Properties.</param>
/// <param name="Count">Vectors; 0 when there is none.</param>
public readonly record struct VfioIrqInfo(VfioIrqFlags Flags, uint Count);
