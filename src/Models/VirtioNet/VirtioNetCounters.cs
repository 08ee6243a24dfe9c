namespace Virtbus.Models.VirtioNet;

/// <summary>What went through a virtio network device since it was made, seen from its driver. Lost are frames that were for it, or of it, and went nowhere.</summary>
/// <param name="ReceivedFrames">Frames given to the driver.</param>
/// <param name="ReceivedBytes">Their bytes.</param>
/// <param name="ReceiveLost">Frames for the driver that were lost: no buffer in time or none until the queue was stopped, too long for it, link down, no driver.</param>
/// <param name="SentFrames">Frames of the driver that the network took.</param>
/// <param name="SentBytes">Their bytes.</param>
/// <param name="SendLost">Frames of the driver that were lost: no frame, longer than the MTU, of another VLAN than the device's, offload data that it may not use or that does not fit the frame, link down.</param>
public readonly record struct VirtioNetCounters(
    ulong ReceivedFrames, ulong ReceivedBytes, ulong ReceiveLost, ulong SentFrames, ulong SentBytes, ulong SendLost);
