using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Transports.Tap;

/// <summary>Joins a TAP interface of the host to a port of an adapter's switch. A poll thread reads from the host.</summary>
public sealed class TapBridge : IDisposable
{
    private const int MaxFrame = 65536;
    private const int FramesPerTurn = 32;
    private readonly TapFile _tap;
    private PollClient? _reader;

    private TapBridge(TapFile tap) => _tap = tap;

    /// <summary>The interface's name on the host.</summary>
    public string Name => _tap.Name;

    /// <summary>Opens the interface and begins to read.</summary>
    /// <param name="name">The interface's name on the host.</param>
    /// <param name="toAdapter">Takes frames from the host, on a poll thread; it must not block.</param>
    /// <exception cref="VirtbusException">As <see cref="TapFile.Open"/>; EAGAIN: the host has no room for a thread that reads.</exception>
    public static TapBridge Start(string name, FrameHandler toAdapter)
    {
        ArgumentNullException.ThrowIfNull(toAdapter);
        var bridge = new TapBridge(TapFile.Open(name));
        try
        {
            // By edges: an interface that somebody removed stays ready for ever.
            bridge._reader = PollThreads.Shared.Attach(
                "tap " + name, new Reader(bridge._tap, toAdapter), [new PollSource(bridge._tap.Descriptor, 0, IsEdge: true)]);
            return bridge;
        }
        catch
        {
            bridge.Dispose();
            throw;
        }
    }

    /// <summary>Sends a frame to the host; one that it does not take is dropped, as on a wire.</summary>
    /// <param name="frame">The frame.</param>
    public void Send(in EthernetFrame frame) => _tap.Write(frame.Bytes);

    /// <summary>Stops to read and closes the interface.</summary>
    public void Dispose()
    {
        _reader?.Detach();
        _tap.Dispose();
    }

    private sealed class Reader(TapFile tap, FrameHandler toAdapter) : IPollWork
    {
        private readonly byte[] _buffer = new byte[MaxFrame];

        public bool Work(ulong signals)
        {
            for (var i = 0; i < FramesPerTurn; i++)
            {
                var length = tap.Read(_buffer);
                if (length <= 0)
                    return false;
                toAdapter(new EthernetFrame(_buffer.AsSpan(0, length)));
            }

            return true;
        }

        public bool PrepareToSleep() => false;

        public void Awake()
        {
        }
    }
}
