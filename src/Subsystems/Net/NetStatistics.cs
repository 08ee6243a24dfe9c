namespace Virtbus.Subsystems.Net;

/// <summary>Counters of an interface (Linux: rtnl_link_stats64). Each counter is exact; a copy is not of one instant.</summary>
public struct NetStatistics
{
    private long _receivedFrames;
    private long _receivedBytes;
    private long _receiveDropped;
    private long _transmittedFrames;
    private long _transmittedBytes;
    private long _transmitDropped;

    /// <summary>Frames received.</summary>
    public readonly long ReceivedFrames => _receivedFrames;

    /// <summary>Bytes received.</summary>
    public readonly long ReceivedBytes => _receivedBytes;

    /// <summary>Frames received while the interface was down.</summary>
    public readonly long ReceiveDropped => _receiveDropped;

    /// <summary>Frames sent.</summary>
    public readonly long TransmittedFrames => _transmittedFrames;

    /// <summary>Bytes sent.</summary>
    public readonly long TransmittedBytes => _transmittedBytes;

    /// <summary>Frames that could not be sent.</summary>
    public readonly long TransmitDropped => _transmitDropped;

    internal NetStatistics Read() => new()
    {
        _receivedFrames = Interlocked.Read(ref _receivedFrames),
        _receivedBytes = Interlocked.Read(ref _receivedBytes),
        _receiveDropped = Interlocked.Read(ref _receiveDropped),
        _transmittedFrames = Interlocked.Read(ref _transmittedFrames),
        _transmittedBytes = Interlocked.Read(ref _transmittedBytes),
        _transmitDropped = Interlocked.Read(ref _transmitDropped),
    };

    internal void CountReceived(int bytes)
    {
        Interlocked.Increment(ref _receivedFrames);
        Interlocked.Add(ref _receivedBytes, bytes);
    }

    internal void CountReceiveDropped() => Interlocked.Increment(ref _receiveDropped);

    internal bool CountTransmitted(int bytes)
    {
        Interlocked.Increment(ref _transmittedFrames);
        Interlocked.Add(ref _transmittedBytes, bytes);
        return true;
    }

    internal void CountTransmitDropped() => Interlocked.Increment(ref _transmitDropped);
}
