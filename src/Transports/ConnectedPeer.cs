using Virtbus.Platform;
using Virtbus.Subsystems;

namespace Virtbus.Transports;

/// <summary>
/// Who is connected to a server, and what came from it. Made and counted by the session's thread; read by any.
/// </summary>
internal sealed class ConnectedPeer
{
    /// <summary>How a VMM is started so that devices reach its guest's memory; the part that is the same for every device.</summary>
    internal const string ShareMemory = "start QEMU with share=on: -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem";

    private readonly string _name;
    private readonly DateTimeOffset _since;
    private long _messages;
    private long _badMessages;
    private volatile int _maps;

    internal ConnectedPeer(UnixStream stream, TimeProvider time)
    {
        Process = stream.PeerAddress is null ? stream.PeerProcess : 0;
        // Now: later the number may be another's.
        _name = stream.PeerAddress is { } address ? $"{address}" : PeerProcess.NameOf(stream);
        _since = time.GetUtcNow();
    }

    /// <summary>The kernel's word for who connected; 0 when it may not say.</summary>
    internal int Process { get; }

    /// <summary>How many pieces of its memory are mapped.</summary>
    internal int Maps
    {
        set => _maps = value;
    }

    // One thread counts, so that no message pays for a locked instruction.
    internal void CountMessage() => Volatile.Write(ref _messages, _messages + 1);

    // Rare, and from the threads of the device's DMA too.
    internal void CountBadMessage() => Interlocked.Increment(ref _badMessages);

    internal EndpointConnection Describe() => new(Process, _name, _since, Volatile.Read(ref _messages), Interlocked.Read(ref _badMessages), _maps);
}
