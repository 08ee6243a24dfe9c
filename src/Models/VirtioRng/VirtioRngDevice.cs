using System.Security.Cryptography;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Models.VirtioRng;

/// <summary>
/// A virtio entropy source (VIRTIO 1.3, 5.4): one queue, whose buffers come back full of random bytes; no features and no configuration of its
/// own. Threads: see <see cref="VirtioDevice"/>.
/// </summary>
public sealed class VirtioRngDevice : VirtioDevice
{
    private const int MaxQueueSizeOfAll = 64;

    /// <summary>Makes a device, reset, with no driver.</summary>
    /// <param name="name">What it is called in logs and thread names.</param>
    /// <param name="fill">Fills bytes, on the queue's thread, without waiting; null for the host's random numbers.</param>
    public VirtioRngDevice(string name, Action<Span<byte>>? fill = null)
        : base(name, 1, MaxQueueSizeOfAll) => CreateQueues(_ => new VirtioRngQueues(fill ?? RandomNumberGenerator.Fill));

    /// <inheritdoc/>
    public override uint DeviceId => VirtioDeviceId.VIRTIO_ID_RNG;

    /// <inheritdoc/>
    public override VirtioFeatures DeviceFeatures =>
        VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_INDIRECT_DESC, VirtioFeatures.VIRTIO_F_EVENT_IDX, VirtioFeatures.VIRTIO_F_VERSION_1);

    /// <summary>0: there is no configuration space.</summary>
    public override int ConfigSize => 0;

    /// <inheritdoc/>
    protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures)
    {
    }

    /// <inheritdoc/>
    protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault) =>
        Refuse(Errno.EROFS, "an entropy source has no configuration", out fault);

    /// <inheritdoc/>
    protected override void OnBeginUse()
    {
    }
}
