using Virtbus.Models.VirtioRng;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>An entropy source with a queue more, which is an administration queue where there is a script for it.</summary>
internal sealed class AdministeredDevice : VirtioDevice
{
    private readonly AdminScript? _script;

    internal AdministeredDevice(string name, AdminScript? script)
        : base(name, 2, 64)
    {
        _script = script;
        CreateQueues(queue => queue == 0 ? new VirtioRngQueues(static bytes => bytes.Fill(7)) : new Queue(script));
    }

    public override uint DeviceId => VirtioDeviceId.VIRTIO_ID_RNG;

    public override VirtioFeatures DeviceFeatures => _script is null
        ? VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1)
        : VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_ADMIN_VQ);

    public override int ConfigSize => 0;

    protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures)
    {
    }

    protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault)
    {
        fault = new Fault(Errno.EROFS, "it has none");
        return false;
    }

    protected override void OnBeginUse()
    {
    }

    private sealed class Queue(AdminScript? script) : IQueueProcessor
    {
        private readonly DescriptorChain _chain = new(128);
        private DeviceRing _ring = null!;

        public (ulong Requests, ulong Bytes, ulong Errors) Counters => default;

        public void Start(DeviceRing ring, VirtioFeatures features)
        {
            _ring = ring;
            script?.Reset();
        }

        public bool Process(out Fault fault)
        {
            if (!_ring.TryTake(_chain, out fault))
                return false;
            var bytes = new byte[_chain.ReadableLength];
            Assert.True(_chain.TryTakeReadable(bytes));
            var room = (int)_chain.WritableLength - AdminAnswer.Size;
            // What is not answered is its own until the reset.
            if (script!.Answer(AdminCommand.Read(bytes), bytes[AdminCommand.Size..], room) is not { } answer)
                return true;
            Span<byte> header = stackalloc byte[AdminAnswer.Size];
            new AdminAnswer(answer.Status, 0).Write(header);
            var written = _chain.Write(header);
            written += _chain.Write(AdminAnswer.Size, answer.Result.AsSpan(0, Math.Min(answer.Result.Length, room)));
            _ring.Complete(_chain, written);
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
