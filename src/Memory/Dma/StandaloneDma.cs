using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>The DMA of a device without a bus: a port in a group of its own, which reaches what its user attaches. Safe from any thread.</summary>
public sealed class StandaloneDma
{
    /// <summary>Makes one that reaches nothing.</summary>
    /// <param name="name">The device's name, for faults and logs.</param>
    public StandaloneDma(string name)
    {
        Port = new DmaPort(name, new IommuGroup(0)) { IsBusMaster = true };
        // For good: a claim for each attach would want as many releases.
        Port.Group.TryClaimForUser(this, name, out _);
    }

    /// <summary>The port, for the device.</summary>
    public DmaPort Port { get; }

    /// <summary>Lets the device reach an address space instead of what it reached. When it returns, nothing of that is in use any more.</summary>
    /// <param name="space">The space; stays the caller's. Null for nothing.</param>
    public void Attach(IoAddressSpace? space)
    {
        if (!Port.Group.TryAttach(this, Port, space, out var fault))
            throw new VirtbusException(fault.Errno, $"Device '{Port.Name}' cannot reach an address space: {fault.Message}. Make the device anew.");
    }
}
