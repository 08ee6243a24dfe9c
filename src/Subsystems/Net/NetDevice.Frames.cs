using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <content>Frames: which queue they go by, what of their offload data is done here, and what is counted.</content>
public sealed partial class NetDevice
{
    // Memory in which frames are finished that the hardware does not finish; one for each thread that sends such.
    [ThreadStatic]
    private static byte[]? _scratch;

    /// <summary>Sends a whole frame, and tells the hardware at once. Any thread.</summary>
    /// <param name="frame">As of the other one, with nothing left to do.</param>
    /// <param name="fault">As of the other one.</param>
    public bool TryTransmit(ReadOnlySpan<byte> frame, out Fault fault) => TryTransmit(new EthernetFrame(frame), out fault);

    /// <summary>Sends a frame, and tells the hardware at once. Any thread.</summary>
    /// <param name="frame">As for <see cref="TrySend"/>.</param>
    /// <param name="fault">As of <see cref="TrySend"/>.</param>
    public bool TryTransmit(in EthernetFrame frame, out Fault fault)
    {
        var isSent = TrySend(frame, out fault);
        Flush();
        return isSent;
    }

    /// <summary>
    /// Sends a frame of a batch, at whose end the hardware is told once, by <see cref="Flush"/>. Any thread. Frames of a flow go by one queue, and stay in order.
    /// </summary>
    /// <param name="frame">
    /// An Ethernet frame without check sequence, from <see cref="EthernetFrame.MinLength"/> to <see cref="Mtu"/> + <see cref="EthernetFrame.Overhead"/> bytes; or
    /// one that is longer and to be cut into such. What its sender left of it and the hardware does not take is done here.
    /// </param>
    /// <param name="fault">ENETDOWN as ENOTCONN: the interface is down; EMSGSIZE: the length; EINVAL: its offload data does not fit it; ENOBUFS: the queue is full.</param>
    /// <returns>Whether all of it is on its way.</returns>
    public bool TrySend(in EthernetFrame frame, out Fault fault)
    {
        fault = Fault.None;
        if (!_up || !_present)
            fault = new Fault(Errno.ENOTCONN, "the interface is down");
        else if (!frame.IsValid || frame.PieceLength > _mtu + EthernetFrame.Overhead)
            fault = new Fault(Errno.EMSGSIZE, "the frame is shorter than a header or longer than the MTU allows");
        else if (!frame.TryGetNeeds(out var needs))
            fault = new Fault(Errno.EINVAL, "the frame's offload data does not fit it");
        else if ((needs & ~Offloads) == OffloadKinds.None)
            return QueueOf(frame).TrySend(frame, out fault);
        else
            return TrySendFinished(frame, out fault);
        Interlocked.Increment(ref _transmitDropped);
        return false;
    }

    /// <summary>Ends a batch: tells the hardware of the frames that were sent. Any thread; those of other threads are told of with them.</summary>
    public void Flush()
    {
        foreach (var side in _transmit)
            side.Flush();
    }

    /// <summary>Begins to look for frames of a receive queue on the caller's threads, see <see cref="NetPoller"/>. Any thread.</summary>
    /// <param name="queue">The queue, below <see cref="MaxQueues"/>.</param>
    /// <returns>What looks; disposed by the caller.</returns>
    /// <exception cref="VirtbusException">EINVAL: there is no such queue; EBUSY: somebody polls it; EOPNOTSUPP: the driver can't be polled.</exception>
    public NetPoller OpenPoller(int queue)
    {
        if ((uint)queue >= (uint)_receive.Length)
            throw new VirtbusException(Errno.EINVAL, $"Interface {Name} has no queue {queue}. Take one from 0 to {_receive.Length - 1}.");
        var side = _receive[queue];
        if (!side.TryEnterPoller())
            throw new VirtbusException(Errno.EBUSY, $"Queue {queue} of interface {Name} is polled already. Dispose that poller first.");
        if (_ops.SetPolled(queue, true))
            return new NetPoller(_ops, side, queue);
        side.LeavePoller();
        throw new VirtbusException(Errno.EOPNOTSUPP, $"The driver of interface {Name} can't be polled. Receive by its interrupts.");
    }

    /// <summary>Called by the driver for each frame received, for each queue by one thread at a time. One that makes no sense is counted, and nobody is given it.</summary>
    /// <param name="queue">The queue, below the number that was registered.</param>
    /// <param name="frame">The frame, in memory that the hardware does not write to.</param>
    public void Receive(int queue, in EthernetFrame frame)
    {
        var side = _receive[queue];
        if (!_up)
        {
            side.CountDropped();
            return;
        }

        if (!frame.IsValid)
        {
            side.CountLengthError();
            return;
        }

        // Not what it did not say that it would leave, either.
        if (!frame.TryGetNeeds(out var needs) || (needs & ~_hardwareReceive) != OffloadKinds.None)
        {
            side.CountFrameError();
            return;
        }

        side.Count(frame.Length);
        foreach (var receiver in Volatile.Read(ref _receivers))
        {
            if (needs == OffloadKinds.None || (needs & ~(receiver.Takes & _receiveOffloads)) == OffloadKinds.None)
                receiver.Receive(this, queue, frame);
            else
                ReceiveFinished(side, receiver, queue, frame);
        }
    }

    /// <summary>Called by the driver when no more frames wait in a queue, after those of <see cref="Receive"/>.</summary>
    /// <param name="queue">The queue.</param>
    public void EndReceive(int queue)
    {
        foreach (var receiver in Volatile.Read(ref _receivers))
            receiver.EndBatch(this, queue);
    }

    /// <summary>Called by the driver for what it received and can't make a frame of, as <see cref="Receive"/> is.</summary>
    /// <param name="queue">The queue.</param>
    /// <param name="isLength">Whether its length is wrong; else what the hardware says of it.</param>
    public void CountReceiveError(int queue, bool isLength)
    {
        if (isLength)
            _receive[queue].CountLengthError();
        else
            _receive[queue].CountFrameError();
    }

    private TransmitSide QueueOf(in EthernetFrame frame)
    {
        var queues = _queues;
        if (queues == 1)
            return _transmit[0];
        var hash = frame.Offload.HashReport != 0 ? frame.Offload.Hash : FlowHeader.Parse(frame.Bytes).SymmetricHash(frame.Bytes);
        return _transmit[hash % (uint)queues];
    }

    // Should the driver send by another interface while it has a frame, that one finds no memory of ours in use.
    private bool TrySendFinished(in EthernetFrame frame, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, "the frame's offload data does not fit it");
        var scratch = _scratch ?? new byte[FrameFinisher.BufferSize];
        _scratch = null;
        // All pieces of a flow, and no hash of its sender's is lost by that.
        var side = QueueOf(frame);
        var isSent = FrameFinisher.TryBegin(frame, Offloads, scratch, out var finisher);
        if (!isSent)
            Interlocked.Increment(ref _transmitDropped);
        while (isSent && finisher.TryNext(out var piece))
            isSent = side.TrySend(piece, out fault);
        _scratch = scratch;
        return isSent;
    }

    private void ReceiveFinished(ReceiveSide side, IFrameReceiver receiver, int queue, in EthernetFrame frame)
    {
        if (!FrameFinisher.TryBegin(frame, receiver.Takes & _receiveOffloads, side.Scratch, out var finisher))
            return;
        while (finisher.TryNext(out var piece))
            receiver.Receive(this, queue, piece);
    }
}
