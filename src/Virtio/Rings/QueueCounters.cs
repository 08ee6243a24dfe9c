namespace Virtbus.Virtio.Rings;

/// <summary>What a queue did since its device was made.</summary>
/// <param name="Requests">Buffers handed back.</param>
/// <param name="Bytes">Payload bytes moved.</param>
/// <param name="Errors">Requests that were answered with an error, and ring errors.</param>
/// <param name="Kicks">Times that the queue's thread was woken by a kick.</param>
/// <param name="Calls">Used buffer notifications sent.</param>
public readonly record struct QueueCounters(ulong Requests, ulong Bytes, ulong Errors, ulong Kicks, ulong Calls);
