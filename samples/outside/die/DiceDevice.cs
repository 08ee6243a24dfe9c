using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Die;

/// <summary>A virtio device of many dice: it fills what the driver gives it with numbers from 1 to 6, one a byte.</summary>
public sealed class DiceDevice : VirtioDevice
{
    private readonly Random _random;

    public DiceDevice(int seed)
        : base("dice", queueCount: 1, maxQueueSize: 64)
    {
        _random = new Random(seed);
        CreateQueues(_ => new Throws(_random));
    }

    public override uint DeviceId => 0x3F;

    public override VirtioFeatures DeviceFeatures => VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);

    public override int ConfigSize => 0;

    protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures)
    {
    }

    protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault) =>
        Refuse(Errno.EROFS, "dice have nothing to configure", out fault);

    protected override void OnBeginUse()
    {
    }

    private sealed class Throws(Random random) : IQueueProcessor
    {
        private readonly DescriptorChain _chain = new(64);
        private readonly byte[] _dice = new byte[256];
        private DeviceRing _ring = null!;
        private ulong _requests;

        public (ulong Requests, ulong Bytes, ulong Errors) Counters => (Volatile.Read(ref _requests), 0, 0);

        public void Start(DeviceRing ring, VirtioFeatures features) => _ring = ring;

        public bool Process(out Fault fault)
        {
            if (!_ring.TryTake(_chain, out fault))
                return false;
            var dice = _dice.AsSpan(0, (int)Math.Min(_chain.WritableLength, (uint)_dice.Length));
            foreach (ref var die in dice)
                die = (byte)random.Next(1, 7);
            _ring.Complete(_chain, _chain.Write(dice));
            _requests++;
            return true;
        }

        public void Drain()
        {
        }

        public void Dispose()
        {
        }
    }
}
