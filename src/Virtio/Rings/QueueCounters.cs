namespace Virtbus.Virtio.Rings;

/// <summary>What a queue did since its device was made.</summary>
/// <param name="Requests">Buffers handed back.</param>
/// <param name="Bytes">Payload bytes moved.</param>
/// <param name="Errors">Requests that were answered with an error, and ring errors.</param>
/// <param name="Kicks">Times that the queue's thread was woken by a kick.</param>
/// <param name="Calls">Used buffer notifications sent.</param>
/// <param name="InPlace">Requests that the back end did on the queue's thread; this and the next two are 0 for what has no back end.</param>
/// <param name="Uring">Requests that it did by io_uring.</param>
/// <param name="Worker">Requests that it did by a thread that may wait.</param>
public readonly record struct QueueCounters(
    ulong Requests, ulong Bytes, ulong Errors, ulong Kicks, ulong Calls, ulong InPlace = 0, ulong Uring = 0, ulong Worker = 0);
