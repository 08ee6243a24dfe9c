using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>A physical function with the ids of a virtio device, and virtual ones that note what is written into them.</summary>
internal sealed class FakeVirtioFunction : PciPhysicalFunction
{
    internal const int MsixBar = 1;
    internal const int RegisterBar = 4;
    internal const int NotifyAt = 0x3000;
    internal const ushort Revision = 1;
    private readonly ConfigLayout _virtual;

    internal FakeVirtioFunction(ushort device = 0x1041, bool hasBar0 = false)
        : base(MakeLayout(device, hasBar0)) =>
        _virtual = ConfigSpaceBuilder.VirtualFunction(ConfigLayout)
            .Subsystem(0x1AF4, 0x1100)
            .PowerManagement()
            .Msix(4, MsixBar, 0, MsixBar, 0x800)
            .Build();

    /// <summary>What was written to the virtual functions' registers: number, bar, offset, bytes in hex.</summary>
    internal List<string> Writes { get; } = [];

    /// <summary>The doorbells of a virtual function made from here on.</summary>
    internal IReadOnlyList<PciDoorbell> VirtualDoorbells { get; set; } = [];

    /// <summary>What eventfds stand for, by the number of the virtual function: duplicates, and the last one made counts.</summary>
    internal Dictionary<(int Number, PciDoorbell Doorbell), EventFd> Signals { get; } = [];

    protected override PciVirtualFunction CreateVirtualFunction(int index) => new Virtual(this, index);

    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => destination.Clear();

    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
    }

    protected override void OnReset(PciResetKind kind)
    {
    }

    private static ConfigLayout MakeLayout(ushort device, bool hasBar0)
    {
        var none = default(PciBar);
        return ConfigSpaceBuilder.Function(0x1AF4, device)
            .Class(0x020000, (byte)Revision)
            .MemoryBar64(RegisterBar, 0x4000)
            .Express(new PciExpressOptions())
            .Ari()
            .Sriov(new SriovOptions
            {
                TotalVfs = 4,
                VfDeviceId = device,
                VfBars = [hasBar0 ? new PciBar(PciBarKind.Memory32, 0x1000) : none, new PciBar(PciBarKind.Memory32, 0x1000), none, none, new PciBar(PciBarKind.Memory64, 0x4000)],
            })
            .Build();
    }

    private sealed class Virtual(FakeVirtioFunction physical, int index) : PciVirtualFunction(physical, index, physical._virtual)
    {
        private readonly int _number = index;
        private readonly IReadOnlyList<PciDoorbell> _doorbells = physical.VirtualDoorbells;

        public override IReadOnlyList<PciDoorbell> Doorbells => _doorbells;

        public override bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
        {
            if (!_doorbells.Contains(doorbell))
                return base.TryAttachDoorbell(doorbell, signal, out fault);
            fault = Fault.None;
            if (physical.Signals.Remove((_number, doorbell), out var old))
                old.Dispose();
            if (signal is not null)
                physical.Signals.Add((_number, doorbell), signal.Duplicate());
            return true;
        }

        // The low byte of the place, and one more for each byte.
        protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
        {
            for (var i = 0; i < destination.Length; i++)
                destination[i] = (byte)(offset + (ulong)i + 0x5A);
        }

        protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) =>
            physical.Writes.Add($"{_number} {bar} {offset:x} {Convert.ToHexStringLower(source)}");

        protected override void OnReset(PciResetKind kind)
        {
        }

        // A function that ends lets go of them.
        protected override void Dispose(bool disposing)
        {
            base.Dispose(disposing);
            foreach (var doorbell in _doorbells)
                TryAttachDoorbell(doorbell, null, out _);
        }
    }
}
