using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// Frames from the driver to the network. Each is copied once and looked at in the copy, and its buffer is the driver's again: what the network checked, by
/// the length, the addresses or a VLAN, is what it hands on.
/// </summary>
internal sealed class TransmitQueue : NetQueue
{
    // Of frames that are cut for others; the rest of the batch waits for the next turn, behind whoever else is on the thread.
    private const int MostPieces = 4096;

    private readonly VirtioNetDevice _device;
    private readonly SwitchBatch _batch;
    private readonly int _pair;
    private readonly Action<IFrameSink, Exception> _failed;
    // What was copied of a turn, each with its header, and where each ends.
    private readonly int[] _ends = new int[Batch];
    private byte[] _frame = [];
    private OffloadKinds _allowed;

    internal TransmitQueue(VirtioNetDevice device, EthernetSwitch network, int pair)
        : base(Batch)
    {
        _device = device;
        _batch = new SwitchBatch(network);
        _pair = pair;
        _failed = (_, exception) => FaultSource.Report(device.Faults, $"{device.Name}: a port that frames were sent to", exception);
    }

    private bool Steers => _device.Settings.Steering is { Pairs: > 1, Table: null };

    public override void Start(DeviceRing ring, VirtioFeatures features)
    {
        base.Start(ring, features);
        _device.Settings.Settle(features);
        _allowed = NetOffloads.Allowed(features);
        if (_frame.Length == 0)
            _frame = new byte[EthernetFrame.MaxUncutLength];
    }

    public override bool Process(out Fault fault)
    {
        fault = Fault.None;
        if (TrySendRuns())
            return true;
        var chains = Chains;
        var taken = Ring.Take(chains, out fault);
        if (taken == 0)
            return false;
        var isUp = _device.Settings.IsLinkUp;
        var steers = Steers;
        for (var i = 0; i < taken; i++)
        {
            if (!TrySend(chains[i], isUp, steers))
            {
                // It and those behind it are as if they had not been taken.
                Ring.PutBack(chains.AsSpan(i, taken - i));
                fault = new Fault(Errno.EPROTO, "a frame to be sent has no header");
                break;
            }

            Ring.Complete(chains[i], 0);
            if (_batch.Pieces < MostPieces)
                continue;
            Ring.PutBack(chains.AsSpan(i + 1, taken - i - 1));
            break;
        }

        _batch.End(_failed);
        if (taken == chains.Length)
            TryGrow();
        return fault == Fault.None;
    }

    // Frames of one small buffer each, as most are: copied one behind the other in one stay, and then sent. The first that is another one ends that.
    private bool TrySendRuns()
    {
        var runs = Runs;
        var ends = _ends;
        var taken = Ring.TakeRuns(runs, isWritable: false, out var stay);
        if (taken == 0)
            return false;
        var (copied, end) = (0, 0);
        for (; copied < taken; copied++)
        {
            ref readonly var run = ref runs[copied];
            if (run.Length < HeaderSize + EthernetFrame.MinLength || run.Length > _frame.Length - end)
                break;
            var bytes = _frame.AsSpan(end, run.Length);
            run.Bytes.CopyTo(bytes);
            // Its pieces would have to be counted.
            if (NetHeader.IsCut(bytes))
                break;
            end += run.Length;
            ends[copied] = end;
            Ring.CompleteRun(run, 0);
        }

        Ring.PutBackRuns(taken - copied);
        stay.Leave();
        var isUp = _device.Settings.IsLinkUp;
        var steers = Steers;
        var start = 0;
        foreach (var next in ends.AsSpan(0, copied))
        {
            var at = start + HeaderSize;
            if (!isUp || !TrySend(_frame.AsSpan(start, HeaderSize), _frame.AsSpan(at, next - at), steers))
                Lose();
            start = next;
        }

        _batch.End(_failed);
        return copied > 0;
    }

    // False when there is no header; a frame that can't be sent is lost, and its buffer used.
    private bool TrySend(DescriptorChain chain, bool isUp, bool steers)
    {
        Span<byte> header = stackalloc byte[NetHeader.MostBytes];
        header = header[..HeaderSize];
        if (!chain.TryTakeReadable(header))
            return false;
        var length = chain.ReadableLength;
        if (!isUp || length is < EthernetFrame.MinLength or > EthernetFrame.MaxUncutLength)
        {
            Lose();
            return true;
        }

        var bytes = _frame.AsSpan(0, (int)length);
        chain.TryTakeReadable(bytes);
        if (!TrySend(header, bytes, steers))
            Lose();
        return true;
    }

    private bool TrySend(ReadOnlySpan<byte> header, ReadOnlySpan<byte> bytes, bool steers)
    {
        if (!NetHeader.TryRead(header, _allowed, bytes.Length, out var offload))
            return false;
        var frame = new EthernetFrame(bytes, offload);
        if (!frame.IsValid || _device.IsTooLong(frame))
            return false;
        if (steers)
            _device.Flows.Note(bytes, _pair);
        if (!_batch.Forward(_device.Port, frame))
            return false;
        Count(bytes.Length);
        return true;
    }
}
