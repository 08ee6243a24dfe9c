namespace Virtbus.Subsystems.Net;

/// <summary>Counters of an interface, or of one of its queues (Linux: rtnl_link_stats64). Each counter is exact; a copy is not of one instant.</summary>
public readonly struct NetStatistics
{
    /// <summary>Frames received; one that is still to be cut is one.</summary>
    public long ReceivedFrames { get; init; }

    /// <summary>Bytes received.</summary>
    public long ReceivedBytes { get; init; }

    /// <summary>Frames received while the interface was down.</summary>
    public long ReceiveDropped { get; init; }

    /// <summary>Frames received of which something was wrong, all kinds together.</summary>
    public long ReceiveErrors { get; init; }

    /// <summary>Those whose length is not one that Ethernet has, or that the hardware has no room for.</summary>
    public long ReceiveLengthErrors { get; init; }

    /// <summary>Those whose offload data did not fit them.</summary>
    public long ReceiveFrameErrors { get; init; }

    /// <summary>Frames sent.</summary>
    public long TransmittedFrames { get; init; }

    /// <summary>Bytes sent.</summary>
    public long TransmittedBytes { get; init; }

    /// <summary>Frames that could not be sent.</summary>
    public long TransmitDropped { get; init; }

    /// <summary>The sum of both.</summary>
    internal NetStatistics Plus(in NetStatistics other) => new()
    {
        ReceivedFrames = ReceivedFrames + other.ReceivedFrames,
        ReceivedBytes = ReceivedBytes + other.ReceivedBytes,
        ReceiveDropped = ReceiveDropped + other.ReceiveDropped,
        ReceiveErrors = ReceiveErrors + other.ReceiveErrors,
        ReceiveLengthErrors = ReceiveLengthErrors + other.ReceiveLengthErrors,
        ReceiveFrameErrors = ReceiveFrameErrors + other.ReceiveFrameErrors,
        TransmittedFrames = TransmittedFrames + other.TransmittedFrames,
        TransmittedBytes = TransmittedBytes + other.TransmittedBytes,
        TransmitDropped = TransmitDropped + other.TransmitDropped,
    };
}
