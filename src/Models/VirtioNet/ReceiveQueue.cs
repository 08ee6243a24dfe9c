using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// Frames from the network to the driver. Whoever sends puts them into a bounded ring, on any thread and without waiting for the driver; the queue's thread
/// takes them out when there are buffers. While the queue stands still nothing is put in, and what was there is gone: it was for the user of before.
/// </summary>
internal sealed class ReceiveQueue : NetQueue
{
    private const int Depth = 256;
    // Room for as many segments as a window of TCP has.
    private const int Bytes = 1 << 20;
    // The most buffers for one frame.
    private const int MostBuffers = 128;

    private readonly VirtioNetDevice _device;
    // Held while a frame is put in: too short to sleep for, and let go of without a fence.
    private SpinLock _senders = new(enableThreadOwnerTracking: false);
    private FrameRing? _waiting;
    private bool _isOpen;
    private int _generation;
    private uint _added;
    private uint _taken;
    private bool _merges;
    private int _next;
    private int _held;
    // The oldest frame wants more buffers than there are, and how many there were at the look before.
    private bool _isShort;
    private int _shortWith;
    // A frame found no room since the last one was taken out.
    private volatile bool _isFull;
    private ulong _refused;

    internal ReceiveQueue(VirtioNetDevice device)
        : base(MostBuffers) => _device = device;

    /// <summary>Frames that found no room; any thread.</summary>
    internal ulong Refused => Volatile.Read(ref _refused);

    /// <summary>Whether nothing waits; any thread.</summary>
    internal bool IsEmpty => Volatile.Read(ref _added) == Volatile.Read(ref _taken);

    // Buffers alone are no work.
    public override bool IsFull => IsEmpty;

    /// <summary>Puts a frame in. Any thread.</summary>
    /// <param name="frame">The frame.</param>
    /// <param name="generation">The device's, from before the frame was looked at.</param>
    /// <returns>False when the queue does not run, or not for the same user; a frame that finds no room is lost.</returns>
    internal bool TryAdd(in EthernetFrame frame, int generation)
    {
        var isMine = false;
        try
        {
            _senders.Enter(ref isMine);
            if (!_isOpen || generation != _generation)
                return false;
            if (_waiting!.TryWrite(frame))
                Volatile.Write(ref _added, _added + 1);
            else
                Refuse();
            return true;
        }
        finally
        {
            if (isMine)
                _senders.Exit(useMemoryBarrier: false);
        }
    }

    public override void Start(DeviceRing ring, VirtioFeatures features)
    {
        base.Start(ring, features);
        _device.Settings.Settle(features);
        _merges = features.Has(VirtioNetConfig.VIRTIO_NET_F_MRG_RXBUF);
        _waiting ??= new FrameRing(Depth, Bytes);
        // Whatever is there is of the user of before.
        Close();
        _shortWith = 0;
        _isFull = false;
        _generation = _device.Settings.Generation;
        SetOpen(true);
    }

    public override bool Process(out Fault fault)
    {
        fault = Fault.None;
        var frames = Math.Min(Volatile.Read(ref _added) - _taken, Batch);
        if (frames == 0)
            return false;
        if (TryGiveRuns((int)frames))
            return true;
        _next = 0;
        _held = 0;
        _isShort = false;
        var done = 0;
        Take((int)frames, ref fault);
        while (done < frames && _waiting!.TryPeek(out var frame) && TryGive(frame, ref fault))
        {
            _waiting.Release();
            _isFull = false;
            _shortWith = 0;
            Volatile.Write(ref _taken, _taken + 1);
            done++;
        }

        var left = Chains.AsSpan(_next, _held - _next);
        if (_isShort)
            Ring.PutBackUntilMore(left);
        else
            Ring.PutBack(left);
        return fault == Fault.None && done > 0;
    }

    // Frames into one buffer each, as most go, in one stay. The first that needs another way ends that.
    private bool TryGiveRuns(int frames)
    {
        var runs = Runs;
        var taken = Ring.TakeRuns(runs.AsSpan(0, frames), isWritable: true, out var stay);
        if (taken == 0)
            return false;
        var takes = _device.Settings.Takes;
        var flags = FlagsFor(takes);
        var given = 0;
        while (given < taken && _waiting!.TryPeek(out var frame))
        {
            ref readonly var run = ref runs[given];
            var length = HeaderSize + frame.Length;
            if (run.Length < length || frame.Length > EthernetFrame.MaxLength || !NetOffloads.AreTaken(frame, takes))
                break;
            var bytes = run.Bytes;
            NetHeader.Write(bytes[..HeaderSize], frame.Offload, flags, 1);
            frame.Bytes.CopyTo(bytes[HeaderSize..]);
            Ring.CompleteRun(run, (uint)length);
            Count(frame.Length);
            _waiting.Release();
            given++;
        }

        Ring.PutBackRuns(taken - given);
        stay.Leave();
        if (given == 0)
            return false;
        _isFull = false;
        _shortWith = 0;
        Volatile.Write(ref _taken, _taken + (uint)given);
        return true;
    }

    public override void Drain() => Close();

    public override void Abandon() => Close();

    public override void Dispose() => Close();

    private void Refuse()
    {
        _refused++;
        _isFull = true;
    }

    private void SetOpen(bool open)
    {
        var isMine = false;
        _senders.Enter(ref isMine);
        _isOpen = open;
        _senders.Exit();
    }

    private void Close()
    {
        SetOpen(false);
        // Nobody adds any more, and no thread of the queue takes. What waits is lost: whoever comes next is no longer the one that it was for.
        while (_waiting is not null && _waiting.TryPeek(out _))
        {
            _waiting.Release();
            Lose();
        }

        Volatile.Write(ref _taken, _added);
    }

    // Takes so many buffers more; false when there was none.
    private bool Take(int count, ref Fault fault)
    {
        while (Chains.Length - _held < count && TryGrow())
        {
        }

        count = Math.Min(count, Chains.Length - _held);
        if (count == 0 || fault != Fault.None)
            return false;
        var taken = Ring.Take(Chains.AsSpan(_held, count), out fault);
        _held += taken;
        return taken > 0;
    }

    // False when the frame has to wait for buffers, or the driver broke the ring.
    private bool TryGive(in EthernetFrame frame, ref Fault fault)
    {
        var takes = _device.Settings.Takes;
        if (!NetOffloads.AreTaken(frame, takes))
        {
            Lose();
            return true;
        }

        if (_next == _held && !Take(1, ref fault))
            return false;
        var first = Chains[_next];
        if (!IsBuffer(first, HeaderSize, ref fault))
            return false;
        var length = (uint)(HeaderSize + frame.Length);
        var end = _next + 1;
        if (first.WritableLength < length && (!_merges || !TryGather(length, ref end, ref fault)))
        {
            // Without merging, or with more buffers than a frame may have, it never fits. The buffers stay for the next one.
            if (fault != Fault.None)
                return false;
            _isShort = _merges && !IsHopeless(end - _next);
            if (_isShort)
                return false;
            Lose();
            return true;
        }

        Write(frame, end, FlagsFor(takes));
        Count(frame.Length);
        return true;
    }

    // Buffers from the next one to the end that hold so many bytes together.
    private bool TryGather(uint length, ref int end, ref Fault fault)
    {
        for (var room = Chains[_next].WritableLength; room < length; room += Chains[end++].WritableLength)
        {
            if ((end == _held && !Take(1, ref fault)) || !IsBuffer(Chains[end], 1, ref fault))
                return false;
        }

        return true;
    }

    // All that the driver can offer at once are too few, or all that there may be; or it keeps all others waiting and the driver brought no more since the
    // look before: one that is just filling its ring does.
    private bool IsHopeless(int buffers)
    {
        if (buffers >= Math.Min(Ring.Size, MostBuffers))
            return true;
        var before = _shortWith;
        _shortWith = buffers;
        return buffers == before && (_isFull || Volatile.Read(ref _added) - _taken == Depth);
    }

    private static bool IsBuffer(DescriptorChain chain, int least, ref Fault fault)
    {
        if (chain.WritableLength >= (uint)least)
            return true;
        fault = new Fault(Errno.EPROTO, "a receive buffer has no room for the header");
        return false;
    }

    private static FrameFlags FlagsFor(OffloadKinds takes) =>
        (takes & OffloadKinds.Checksum) != OffloadKinds.None ? FrameFlags.NeedsChecksum | FrameFlags.DataValid : FrameFlags.None;

    private void Write(in EthernetFrame frame, int end, FrameFlags flags)
    {
        Span<byte> header = stackalloc byte[NetHeader.MostBytes];
        header = header[..HeaderSize];
        NetHeader.Write(header, frame.Offload, flags, end - _next);
        var rest = frame.Bytes;
        var used = Chains[_next].Write(header);
        while (true)
        {
            var chain = Chains[_next++];
            var part = rest[..(int)Math.Min((uint)rest.Length, chain.WritableLength - used)];
            used += chain.Write(used, part);
            rest = rest[part.Length..];
            Ring.Complete(chain, used);
            if (_next == end)
                return;
            used = 0;
        }
    }
}
