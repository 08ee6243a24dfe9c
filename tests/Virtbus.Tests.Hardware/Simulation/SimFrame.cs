namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>A frame that a guest sent.</summary>
/// <param name="From">Who.</param>
/// <param name="To">The address that it is for.</param>
/// <param name="Length">Bytes.</param>
/// <param name="SentAt">When it was put into the ring.</param>
internal sealed record SimFrame(NetGuest From, ulong To, int Length, long SentAt)
{
    /// <summary>When its sender had the buffer back; 0 for not yet.</summary>
    public long DoneAt { get; set; }

    /// <summary>It was in the ring at a reset, and is for nobody.</summary>
    public bool IsLost { get; set; }
}
