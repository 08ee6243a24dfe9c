using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Transports.Tap;

/// <summary>Joins a TAP interface of the host to a port of an adapter's switch. A thread of its own reads from the host.</summary>
public sealed class TapBridge : IDisposable
{
    private const int MaxFrame = 65536;
    private readonly TapFile _tap;
    private readonly EventFd _cancel = new();
    private readonly FrameHandler _toAdapter;
    private ServiceThread? _reader;
    private volatile bool _stop;

    private TapBridge(TapFile tap, FrameHandler toAdapter)
    {
        _tap = tap;
        _toAdapter = toAdapter;
    }

    /// <summary>The interface's name on the host.</summary>
    public string Name => _tap.Name;

    /// <summary>Opens the interface and begins to read.</summary>
    /// <param name="name">The interface's name on the host.</param>
    /// <param name="toAdapter">Takes frames from the host, on the bridge's thread.</param>
    /// <exception cref="VirtbusException">As <see cref="TapFile.Open"/>; EAGAIN: the host has no room for the bridge's thread.</exception>
    public static TapBridge Start(string name, FrameHandler toAdapter)
    {
        ArgumentNullException.ThrowIfNull(toAdapter);
        var bridge = new TapBridge(TapFile.Open(name), toAdapter);
        try
        {
            bridge._reader = ServiceThread.Start("tap " + name, bridge.Read);
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
        _stop = true;
        _cancel.Signal();
        _reader?.Join();
        _tap.Dispose();
        _cancel.Dispose();
    }

    private void Read()
    {
        var buffer = new byte[MaxFrame];
        while (!_stop && _tap.Wait(_cancel))
        {
            int length;
            while ((length = _tap.Read(buffer)) > 0)
                _toAdapter(new EthernetFrame(buffer.AsSpan(0, length)));
        }
    }
}
