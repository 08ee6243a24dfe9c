namespace Virtbus.Tests.Trust;

/// <summary>Frames from one network device to another, numbered. Each is to arrive once and in order, with the bytes that its number says.</summary>
/// <param name="number">The flow's number.</param>
/// <param name="from">Who sends.</param>
/// <param name="to">Who receives.</param>
internal sealed class VirtioFlow(ushort number, VirtioNetUser from, VirtioNetUser to)
{
    // No more than the receiver has buffers for: all that was sent is to arrive.
    private const uint Window = 16;

    /// <summary>Who sends; another one when the traffic goes on from another machine.</summary>
    public VirtioNetUser From { get; set; } = from;

    /// <summary>Who receives.</summary>
    public VirtioNetUser To { get; set; } = to;

    /// <summary>Whether nothing more is sent for the time being.</summary>
    public bool IsPaused { get; set; }

    public uint Sent { get; private set; }

    public uint Received { get; private set; }

    /// <summary>Publishes frames.</summary>
    /// <param name="count">How many at most.</param>
    public void Publish(int count)
    {
        for (; count > 0 && !IsPaused && Sent - Received < Window && From.TryPublish(NicFrame.Make(To.Address, From.Address, number, Sent)); count--)
            Sent++;
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
