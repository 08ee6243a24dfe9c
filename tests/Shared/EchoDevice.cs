using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests;

/// <summary>A device model as a user writes one: it copies what a buffer holds to where it is to be written. Its configuration is one number, twice.</summary>
internal sealed class EchoDevice : VirtioDevice
{
    internal const int VIRTIO_ECHO_F_LOUD = 70;
    internal const int VIRTIO_ECHO_F_QUIET = 71;
    private uint _number;

    private readonly bool _packed;

    internal EchoDevice(int queues = 1, string name = "echo", bool packed = false)
        : base(name, queues, 64)
    {
        _packed = packed;
        CreateQueues(_ => new Echo(this));
    }

    /// <summary>What the start of a queue throws; null for nothing.</summary>
    internal Exception? ThrowsAtStart { get; set; }

    /// <summary>Whether requests stay in work until the queue is to stop.</summary>
    internal bool HoldsBack { get; init; }

    /// <summary>How many are in work.</summary>
    internal int Held { get; private set; }

    /// <summary>Called when what is in work is to be finished; null for nothing.</summary>
    internal Action? Draining { get; set; }

    public override uint DeviceId => 42;

    public override VirtioFeatures DeviceFeatures =>
        VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VIRTIO_ECHO_F_LOUD, VIRTIO_ECHO_F_QUIET)
        | (_packed ? VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_RING_PACKED, VirtioFeatures.VIRTIO_F_IN_ORDER) : VirtioFeatures.None);

    public override int ConfigSize => 8;


    internal void SetNumber(uint number) => ChangeConfig(() => _number = number);

    protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures)
    {
        Span<byte> all = stackalloc byte[8];
        BinaryPrimitives.WriteUInt32LittleEndian(all, _number);
        BinaryPrimitives.WriteUInt32LittleEndian(all[4..], _number);
        all.Slice(offset, destination.Length).CopyTo(destination);
    }

    protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault) =>
        Refuse(Errno.EROFS, "nothing here is the driver's", out fault);

    protected override bool TryAcceptFeatures(VirtioFeatures features, out Fault fault) =>
        features.Has(VIRTIO_ECHO_F_LOUD) && features.Has(VIRTIO_ECHO_F_QUIET) ? Refuse(Errno.EINVAL, "loud and quiet", out fault) : Done(out fault);

    protected override void OnBeginUse()
    {
    }

    private sealed class Echo(EchoDevice device) : IQueueProcessor
    {
        private readonly DescriptorChain _chain = new(64);
        private readonly byte[] _buffer = new byte[256];
        private DeviceRing _ring = null!;
        private ulong _requests;

        public (ulong Requests, ulong Bytes, ulong Errors) Counters => (Volatile.Read(ref _requests), 0, 0);

        public void Start(DeviceRing ring, VirtioFeatures features)
        {
            _ring = ring;
            if (device.ThrowsAtStart is { } exception)
                throw exception;
        }

        public bool Process(out Fault fault)
        {
            fault = Fault.None;
            if (device.Held > 0 || !_ring.TryTake(_chain, out fault))
                return false;
            if (device.HoldsBack)
            {
                device.Held = 1;
                return true;
            }

            Answer();
            return true;
        }

        public void Drain()
        {
            if (device.Held == 0)
                return;
            device.Draining?.Invoke();
            device.Held = 0;
            Answer();
        }

        public void Abandon() => device.Held = 0;

        public void Dispose()
        {
        }

        private void Answer()
        {
            var length = (int)Math.Min(_chain.ReadableLength, (uint)_buffer.Length);
            _chain.TryTakeReadable(_buffer.AsSpan(0, length));
            _ring.Complete(_chain, _chain.Write(_buffer.AsSpan(0, length)));
            _requests++;
        }
    }
}
