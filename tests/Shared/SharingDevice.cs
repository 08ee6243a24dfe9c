using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests;

/// <summary>A device model that shares memory with its driver, as a user writes one: who has it next gets other memory.</summary>
internal sealed class SharingDevice : VirtioDevice
{
    private readonly (byte Id, ulong Size)[] _regions;

    internal SharingDevice(params (byte Id, ulong Size)[] regions)
        : base("sharing", 1, 16)
    {
        _regions = regions;
        Shared = Make();
        CreateQueues(static _ => new Nothing());
    }

    /// <summary>The regions as they are now.</summary>
    internal VirtioSharedMemory[] Shared { get; set; }

    internal int Users { get; private set; }

    public override uint DeviceId => 26;

    public override VirtioFeatures DeviceFeatures => VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);

    internal int ConfigBytes { get; init; } = 4;

    public override int ConfigSize => ConfigBytes;

    public override IReadOnlyList<VirtioSharedMemory> SharedMemory => Shared;

    /// <summary>A region of which processes can map what there is of whole pages.</summary>
    internal static HostMemory Allocate(ulong size)
    {
        using var file = MemoryFile.Create("sharing", size);
        Assert.True(HostMemory.TryMap(file, 0, size, DmaAccess.ReadWrite, out var memory, out var fault, keepFile: true), fault.Message);
        return memory!;
    }

    protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures) => destination.Clear();

    protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault) =>
        Refuse(Errno.EROFS, "nothing here is the driver's", out fault);

    protected override void OnBeginUse()
    {
    }

    protected override void OnUserChanged()
    {
        Users++;
        var old = Shared;
        Shared = Make();
        Drop(old);
    }

    protected override void OnDispose() => Drop(Shared);

    private static void Drop(VirtioSharedMemory[] regions)
    {
        foreach (var region in regions)
            region.Memory.Dispose();
    }

    private VirtioSharedMemory[] Make() => [.. _regions.Select(static region => new VirtioSharedMemory(region.Id, Allocate(region.Size)))];

    private sealed class Nothing : IQueueProcessor
    {
        public (ulong Requests, ulong Bytes, ulong Errors) Counters => default;

        public void Start(DeviceRing ring, VirtioFeatures features)
        {
        }

        public bool Process(out Fault fault)
        {
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
