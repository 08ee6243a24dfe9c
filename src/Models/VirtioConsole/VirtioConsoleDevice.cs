using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Models.VirtioConsole;

/// <summary>
/// A virtio console with one port (VIRTIO 1.3, 5.3): queue 0 brings text to the guest, queue 1 from it. The members of the line are safe from any thread;
/// of the rest see <see cref="VirtioDevice"/>.
/// </summary>
public sealed class VirtioConsoleDevice : VirtioDevice
{
    private const int ReceiveQueue = 0;
    private const int QueueSizeOfAll = 128;
    // cols and rows, max_nr_ports, emerg_wr: of features that are not offered.
    private const int ConfigBytes = 12;

    private static readonly VirtioFeatures Offered =
        VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_INDIRECT_DESC, VirtioFeatures.VIRTIO_F_EVENT_IDX, VirtioFeatures.VIRTIO_F_VERSION_1);

    private readonly ConsoleInput _input = new();
    private IConsolePeer? _peer;

    /// <summary>Makes a device, reset, with no driver and nobody at the other end.</summary>
    /// <param name="name">What it is called in logs and thread names.</param>
    /// <param name="packed">Whether it offers VIRTIO_F_RING_PACKED.</param>
    public VirtioConsoleDevice(string name, bool packed = false)
        : base(name, 2, QueueSizeOfAll)
    {
        DeviceFeatures = packed ? Offered.With(VirtioFeatures.VIRTIO_F_RING_PACKED) : Offered;
        CreateQueues(queue => queue == ReceiveQueue
            ? new ConsoleInputQueue(_input, () => Volatile.Read(ref _peer)?.CanSend())
            : new ConsoleOutputQueue(bytes => Volatile.Read(ref _peer)?.Receive(bytes) ?? bytes.Length));
    }

    /// <inheritdoc/>
    public override uint DeviceId => VirtioDeviceId.VIRTIO_ID_CONSOLE;

    /// <inheritdoc/>
    public override VirtioFeatures DeviceFeatures { get; }

    /// <inheritdoc/>
    public override int ConfigSize => ConfigBytes;

    /// <summary>How often another user began; a new user of the line begins with that.</summary>
    public int Resets => _input.Users;

    /// <summary>Plugs the other end in.</summary>
    /// <param name="peer">Who gets what the guest sends. What it sent before is lost, as on a line that leads nowhere.</param>
    /// <param name="fault">EBUSY: somebody else is connected.</param>
    public bool TryConnect(IConsolePeer peer, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(peer);
        return Interlocked.CompareExchange(ref _peer, peer, null) is null
            ? Done(out fault)
            : Refuse(Errno.EBUSY, "somebody is connected to the console already", out fault);
    }

    /// <summary>Plugs the other end out. A call of it that is under way may end after the return.</summary>
    /// <param name="peer">Who is connected; without effect when that is somebody else.</param>
    public void Disconnect(IConsolePeer peer) => Interlocked.CompareExchange(ref _peer, null, peer);

    /// <summary>Sends bytes to the guest, as many as the device has room for until the guest takes them.</summary>
    /// <param name="bytes">The bytes.</param>
    /// <param name="resets">
    /// What <see cref="Resets"/> was before the bytes came; with another count by now they are for a user before and vanish. Null for bytes of now.
    /// </param>
    /// <returns>How many were taken, from the first on. After fewer than all, <see cref="IConsolePeer.CanSend"/> is called once there is room.</returns>
    public int TrySend(ReadOnlySpan<byte> bytes, int? resets = null)
    {
        var taken = _input.Add(bytes, resets);
        KickQueue(ReceiveQueue);
        return taken;
    }

    /// <inheritdoc/>
    protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures) => destination.Clear();

    /// <inheritdoc/>
    protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault) =>
        Refuse(Errno.EROFS, "nothing in a console's configuration is the driver's without emergency writes", out fault);

    /// <inheritdoc/>
    protected override void OnBeginUse()
    {
        var peer = Volatile.Read(ref _peer);
        // Before the count: who reads the new one takes nothing from the peer's line that is of before.
        peer?.DropUnsent();
        _input.BeginUse();
        if (_input.TakeRefusal())
            peer?.CanSend();
    }
}
