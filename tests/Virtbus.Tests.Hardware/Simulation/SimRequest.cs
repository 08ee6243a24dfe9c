namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>What a guest asked of its device, from the moment at which it is in the ring.</summary>
/// <param name="Slot">Where its buffers are.</param>
/// <param name="Kind">What it is, in the guest's own words.</param>
/// <param name="Number">Its number or the number of its content.</param>
/// <param name="Place">The first sector, for one.</param>
/// <param name="Length">Bytes, or sectors.</param>
internal sealed record SimRequest(int Slot, int Kind, ulong Number = 0, int Place = 0, int Length = 0)
{
    /// <summary>Bytes that the device may write.</summary>
    public uint Writable { get; set; }

    /// <summary>Whether the device did what it is about, as the other end saw it.</summary>
    public bool IsSeen { get; set; }
}
