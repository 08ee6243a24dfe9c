using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>A device of a type that legacy drivers do not know, with one queue in which nothing happens.</summary>
internal sealed class NewDevice : VirtioDevice
{
    /// <param name="look">Called on the queue's own thread at each look at its ring.</param>
    /// <param name="disposing">Called when the device goes, before its queue is stopped.</param>
    internal NewDevice(Action? look = null, Action? disposing = null)
        : base("new", 1, 64)
    {
        Disposing = disposing;
        CreateQueues(_ => new Nothing(look));
    }

    private Action? Disposing { get; }

    public override uint DeviceId => VirtioDeviceId.VIRTIO_ID_FS;

    public override VirtioFeatures DeviceFeatures => VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);

    public override int ConfigSize => 0;

    protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures)
    {
    }

    protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault) => Done(out fault);

    protected override void OnBeginUse()
    {
    }

    protected override void OnDispose() => Disposing?.Invoke();

    private sealed class Nothing(Action? look) : IQueueProcessor
    {
        public bool MayBlock => look is not null;

        public (ulong Requests, ulong Bytes, ulong Errors) Counters => default;

        public void Start(DeviceRing ring, VirtioFeatures features)
        {
        }

        public bool Process(out Fault fault)
        {
            look?.Invoke();
            fault = Fault.None;
            return false;
        }

        public void Drain()
        {
        }

        public void Dispose()
        {
        }
    }
}
