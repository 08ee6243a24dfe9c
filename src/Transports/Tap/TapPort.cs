using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Transports.Tap;

/// <summary>
/// A TAP interface of the host as a port of a switch. Offload data goes both ways, so that what a guest or the host leaves uncut stays so between them.
/// Each queue is read by a client of the poll threads; frames to the host go by the queue that their flow has.
/// </summary>
public sealed class TapPort : IDisposable
{
    /// <summary>How many queues Linux gives an interface at most.</summary>
    public const int MaxQueues = 256;

    private const int FramesPerTurn = 32;
    private readonly EthernetSwitch _owner;
    private readonly TapFile[] _queues;
    private readonly List<PollClient> _readers = [];
    private readonly UseGate _gate = new();
    private long _dropped;

    private TapPort(EthernetSwitch owner, TapFile[] queues, ushort accessVlan)
    {
        _owner = owner;
        _queues = queues;
        Port = new SwitchPort(new Sink(this)) { Name = Name, AccessVlan = accessVlan, MaxAddresses = EthernetSwitch.MaxAddressesOfNetwork };
    }

    /// <summary>The interface's name on the host.</summary>
    public string Name => _queues[0].Name;

    /// <summary>Its place on the switch.</summary>
    public SwitchPort Port { get; }

    /// <summary>Frames that the host did not take: the interface is down or does not keep up. Any thread.</summary>
    public long Dropped => Interlocked.Read(ref _dropped);

    /// <summary>Opens the interface and puts it on a switch.</summary>
    /// <param name="name">The interface's name on the host.</param>
    /// <param name="owner">The switch.</param>
    /// <param name="queues">How many queues, 1 to <see cref="MaxQueues"/>; an interface that exists has one or many for good.</param>
    /// <param name="accessVlan">As <see cref="SwitchPort.AccessVlan"/>.</param>
    /// <exception cref="VirtbusException">As <see cref="TapFile.OpenQueue"/>; EAGAIN: the host has no room for a thread that reads.</exception>
    public static TapPort Start(string name, EthernetSwitch owner, int queues = 1, ushort accessVlan = 0)
    {
        ArgumentNullException.ThrowIfNull(owner);
        if (queues is < 1 or > MaxQueues)
            throw new ArgumentOutOfRangeException(nameof(queues), queues, $"A TAP interface has 1 to {MaxQueues} queues.");
        var files = new List<TapFile>();
        TapPort? port = null;
        try
        {
            for (var i = 0; i < queues; i++)
                files.Add(TapFile.OpenQueue(name, isOneOfMany: queues > 1));
            port = new TapPort(owner, [.. files], accessVlan);
            owner.Join(port.Port);
            // By edges: an interface that somebody removed stays ready for ever.
            foreach (var file in files)
                port._readers.Add(PollThreads.Shared.Attach("tap " + name, new Reader(port, file), [new PollSource(file.Descriptor, 0, IsEdge: true)]));
            return port;
        }
        catch
        {
            port?.Dispose();
            foreach (var file in files)
                file.Dispose();
            throw;
        }
    }

    /// <summary>Takes it off the switch and closes the interface. Not from what takes a frame of the switch.</summary>
    public void Dispose()
    {
        _owner.Leave(Port);
        foreach (var reader in _readers)
            reader.Detach();
        _gate.Close();
        foreach (var queue in _queues)
            queue.Dispose();
    }

    // All frames of a flow go by one queue, so that they stay in order.
    private TapFile QueueOf(in EthernetFrame frame) => _queues.Length == 1 ? _queues[0] : _queues[HashOf(frame) % (uint)_queues.Length];

    // The sender's own, when there is one.
    internal static uint HashOf(in EthernetFrame frame) => frame.Offload.HashReport != 0 ? frame.Offload.Hash : FlowHeader.Parse(frame.Bytes).SymmetricHash(frame.Bytes);

    private sealed class Sink(TapPort owner) : IFrameSink
    {
        public OffloadKinds Takes => owner._queues[0].JoinsDatagrams ? OffloadKinds.All : OffloadKinds.All & ~(OffloadKinds.UdpV4 | OffloadKinds.UdpV6);

        public long Dropped => owner.Dropped;

        public void Deliver(in EthernetFrame frame)
        {
            if (!owner._gate.TryEnter())
                return;
            Span<byte> header = stackalloc byte[TapFile.HeaderSize];
            TapHeader.Write(header, frame.Offload, frame.Length);
            if (!owner.QueueOf(frame).Write(header, frame.Bytes))
                Miss();
            owner._gate.Leave();
        }

        public void Miss() => Interlocked.Increment(ref owner._dropped);

        // Each frame is told of with its write.
        public void Flush()
        {
        }
    }

    private sealed class Reader(TapPort owner, TapFile queue) : IPollWork
    {
        private readonly byte[] _buffer = new byte[TapFile.HeaderSize + EthernetFrame.MaxUncutLength];
        private readonly SwitchBatch _batch = new(owner._owner);

        public bool Work(ulong signals)
        {
            var hasMore = true;
            for (var i = 0; i < FramesPerTurn && hasMore; i++)
            {
                var length = queue.Read(_buffer);
                hasMore = length > TapFile.HeaderSize;
                if (hasMore)
                    _batch.Forward(owner.Port, new EthernetFrame(_buffer.AsSpan(TapFile.HeaderSize..length), FrameOffload.Read(_buffer)));
            }
            _batch.End(static (_, exception) => ServiceThread.Unhandled?.Invoke("tap", exception));
            return hasMore;
        }

        public bool PrepareToSleep() => false;

        public void Awake()
        {
        }
    }
}
