using Virtbus.Buses.Pci;

namespace Virtbus.Drivers.NicRings;

/// <summary>
/// How one make of adapter is spoken to: where its registers and doorbells are, and how wide. That is all in which makes differ for a driver.
/// Any thread.
/// </summary>
public abstract class NicRegisters
{
    /// <summary>The BAR with the registers, and at the same offsets with the virtio windows.</summary>
    public const int RegisterBar = 0;

    /// <summary>The BAR with the doorbells.</summary>
    public const int DoorbellBar = 2;

    /// <summary>Finds the BARs of a function.</summary>
    /// <param name="device">The function.</param>
    protected NicRegisters(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        Device = device;
        Region = device.GetRegion(RegisterBar);
        Doorbells = device.GetRegion(DoorbellBar);
    }

    /// <summary>The make's name.</summary>
    public abstract string Make { get; }

    /// <summary>The four letters in <see cref="NicRegister.Identity"/>, the first in the lowest byte.</summary>
    public abstract uint Letters { get; }

    /// <summary>The function.</summary>
    protected internal PciDevice Device { get; }

    /// <summary>The registers.</summary>
    protected internal PciRegion Region { get; }

    /// <summary>The doorbells.</summary>
    protected internal PciRegion Doorbells { get; }

    /// <summary>Reads a register; all ones when the function is gone.</summary>
    /// <param name="register">Which.</param>
    public abstract ulong Read(NicRegister register);

    /// <summary>Writes a register.</summary>
    /// <param name="register">Which.</param>
    /// <param name="value">The value.</param>
    public abstract void Write(NicRegister register, ulong value);

    /// <summary>Tells the function that commands are there.</summary>
    /// <param name="producer">Commands since it was enabled; wraps.</param>
    public abstract void RingCommands(uint producer);

    /// <summary>Tells the function that events were taken.</summary>
    /// <param name="consumer">Events since it was enabled; wraps.</param>
    public abstract void RingEvents(uint consumer);

    /// <summary>Tells the function that a queue set has frames to send.</summary>
    /// <param name="set">The queue set.</param>
    public abstract void RingTransmit(int set);
}
