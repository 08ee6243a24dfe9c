namespace Virtbus.Tests.Trust;

/// <summary>Frames from one station to another, numbered. Each is to arrive once and in order, with the bytes that its number says.</summary>
/// <param name="number">The flow's number.</param>
/// <param name="from">Who sends.</param>
/// <param name="to">Who receives.</param>
internal sealed class Flow(ushort number, Station from, Station to)
{
    // Frames under way: a station's buffers hold as many, whatever their sizes.
    private const uint Window = 8;

    /// <summary>Who sends; another one when the traffic goes on from another machine.</summary>
    public Station From { get; set; } = from;

    /// <summary>Who receives.</summary>
    public Station To { get; set; } = to;

    /// <summary>Whether nothing more is sent for the time being.</summary>
    public bool IsPaused { get; set; }

    /// <summary>Frames published.</summary>
    public uint Sent { get; private set; }

    /// <summary>Frames that arrived.</summary>
    public uint Received { get; private set; }

    /// <summary>Publishes frames.</summary>
    /// <param name="count">How many at most.</param>
    /// <param name="random">How they are cut.</param>
    public void Publish(int count, Random random)
    {
        for (; count > 0 && !IsPaused && Sent - Received < Window; count--)
        {
            var frame = NicFrame.Make(To.Address, From.Address, number, Sent);
            if (!From.Queue.TryPublish(frame, random.Next(3) == 0 ? random.Next(1, frame.Length) : frame.Length))
                return;
            Sent++;
        }
    }

    /// <summary>A frame of this flow arrived.</summary>
    public void Receive(ReadOnlySpan<byte> frame)
    {
        var sequence = NicFrame.SequenceOf(frame);
        if (sequence != Received)
            throw new DeviceFailure($"flow {number}: frame {sequence} arrived in place of {Received}; {Sent} were sent");
        if (!frame.SequenceEqual(NicFrame.Make(To.Address, From.Address, number, sequence)))
            throw new DeviceFailure($"flow {number}: frame {sequence} has other bytes than were sent");
        Received++;
    }
}
