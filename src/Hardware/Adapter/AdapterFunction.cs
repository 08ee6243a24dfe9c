using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The physical function of a simulated adapter, which is the adapter as a PCI device. Registers and queues are described in
/// docs/adapter-registers.md. A pair of makes does the same behind different registers.
/// </summary>
public sealed class AdapterFunction : PciPhysicalFunction, IFunctionPort
{
    /// <summary>The vendor id of both makes.</summary>
    public const ushort VendorId = 0x5642;

    /// <summary>The most virtual functions that an adapter can have.</summary>
    public const int MaxVirtualFunctions = 256;

    private const int QueueSets = 512;
    private const int Vectors = 512;
    private const int Windows = 248;
    private const uint ClassCode = 0x020000;
    private const uint RegisterBytes = 1 << 20;
    private const uint VirtualRegisterBytes = 1 << 16;
    private const uint PendingOffset = 0x2000;
    private readonly AdapterLayout _layout;
    private readonly ConfigLayout? _virtualConfig;
    private readonly FunctionUnit _unit;

    private AdapterFunction(AdapterLayout layout, AdapterEngine engine, int virtualFunctions, ConfigLayout config)
        : base(config)
    {
        Engine = engine;
        _layout = layout;
        _virtualConfig = virtualFunctions == 0 ? null : BuildVirtual(config);
        Functions = new FunctionTable(engine);
        for (var i = 0; i < virtualFunctions; i++)
            Functions.Declare(FunctionIdentity.OfVirtual(i), new FunctionSettings(DeriveAddress(engine.MacAddress, i), FunctionTable.DefaultQueueSets));
        var limits = new FunctionLimits(engine.NetworkParts, engine.VdpaParts, QueueSets, Vectors, Windows, virtualFunctions);
        _unit = new FunctionUnit(engine, layout, this, limits, engine.MacAddress, Functions);
    }

    /// <summary>The inside of the adapter, for who puts media in and plugs the wire.</summary>
    public AdapterEngine Engine { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<PciDoorbell> Doorbells => _unit.Doorbells.All;

    /// <summary>Makes an adapter of the first make, merlin.</summary>
    /// <param name="engine">The inside; disposed with the adapter.</param>
    /// <param name="virtualFunctions">How many virtual functions can be enabled, 0 to <see cref="MaxVirtualFunctions"/>.</param>
    public static AdapterFunction CreateMerlin(AdapterEngine engine, int virtualFunctions = 0) => Create(AdapterLayout.Merlin, engine, virtualFunctions);

    /// <summary>Makes an adapter of the second make, harrier.</summary>
    /// <param name="engine">The inside; disposed with the adapter.</param>
    /// <param name="virtualFunctions">How many virtual functions can be enabled, 0 to <see cref="MaxVirtualFunctions"/>.</param>
    public static AdapterFunction CreateHarrier(AdapterEngine engine, int virtualFunctions = 0) => Create(AdapterLayout.Harrier, engine, virtualFunctions);

    /// <inheritdoc/>
    public override bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault) => _unit.Doorbells.TryAttach(doorbell, signal, out fault);

    FunctionIdentity IFunctionPort.Identity => new(FunctionIdentity.Physical, _layout.DeviceId);

    FunctionRegisterPlace IFunctionPort.Registers => default;

    int IFunctionPort.Vectors => Vectors;

    FunctionDma IFunctionPort.UseDma()
    {
        var use = UsePort();
        return new FunctionDma(use, use.Dma);
    }

    DmaPort? IFunctionPort.PortOf(uint pasid)
    {
        using var use = UsePort();
        return use.Dma?.ForPasid(pasid);
    }

    FaultSource? IFunctionPort.Faults => Faults;

    void IFunctionPort.RaiseVector(int vector) => RaiseMsix(vector);

    internal FunctionUnit Unit => _unit;

    /// <summary>The functions that this one commands.</summary>
    internal FunctionTable Functions { get; }

    internal FunctionUnit CreateUnit(IFunctionPort port) => Functions.Create(_layout, port);

    internal ushort VirtualDeviceId => _layout.VirtualDeviceId;

    /// <inheritdoc/>
    protected override PciVirtualFunction CreateVirtualFunction(int index) => new AdapterVirtualFunction(this, index, _virtualConfig!);

    /// <inheritdoc/>
    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => _unit.ReadBar(bar, offset, destination);

    /// <inheritdoc/>
    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) => _unit.WriteBar(bar, offset, source);

    /// <inheritdoc/>
    protected override void OnReset(PciResetKind kind)
    {
        _unit.Reset();
        Functions.Forget();
    }

    /// <inheritdoc/>
    protected override void OnPlugged(DmaPort dma) => _unit.Plugged(dma);

    /// <inheritdoc/>
    protected override void OnUnplugged()
    {
        _unit.Unplugged();
        Functions.Forget();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _unit.Dispose();
        Engine.Dispose();
    }

    private static AdapterFunction Create(AdapterLayout layout, AdapterEngine engine, int virtualFunctions)
    {
        ArgumentNullException.ThrowIfNull(engine);
        ArgumentOutOfRangeException.ThrowIfNegative(virtualFunctions);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(virtualFunctions, MaxVirtualFunctions);
        return new AdapterFunction(layout, engine, virtualFunctions, Build(layout, engine.MacAddress, virtualFunctions));
    }

    private static ConfigLayout Build(AdapterLayout layout, ulong mac, int virtualFunctions)
    {
        var builder = ConfigSpaceBuilder.Function(VendorId, layout.DeviceId)
            .Class(ClassCode, revision: 1)
            .MemoryBar64(FunctionRegisterPlace.RegisterBar, RegisterBytes)
            .MemoryBar64(FunctionRegisterPlace.DoorbellBar, RegisterBytes)
            .MemoryBar64(4, 2 * PendingOffset)
            .PowerManagement()
            .Msix(Vectors, 4, 0, 4, PendingOffset)
            .Express(new PciExpressOptions())
            // As EUI-64, with FFFE in the middle.
            .SerialNumber((mac >> 24 << 40) | 0xFFFEUL << 24 | (mac & 0xFFFFFF))
            .Pasid();
        if (virtualFunctions > 0)
        {
            var registers = new PciBar(PciBarKind.Memory64, VirtualRegisterBytes, true);
            var none = default(PciBar);
            builder.Ari().Sriov(new SriovOptions
            {
                TotalVfs = virtualFunctions,
                VfDeviceId = layout.VirtualDeviceId,
                VfBars = [registers, none, registers, none, new PciBar(PciBarKind.Memory64, 0x1000, true)],
            });
        }
        return builder.Build();
    }

    private static ConfigLayout BuildVirtual(ConfigLayout physical) =>
        ConfigSpaceBuilder.VirtualFunction(physical).Msix(AdapterVirtualFunction.VectorCount, 4, 0, 4, 0x800).Ari().Build();

    // 06, the function's number, and the last four bytes of the physical function; 0A when that one has 06 itself.
    private static ulong DeriveAddress(ulong physical, int index) =>
        ((physical >> 40 == 6 ? 0x0AUL : 0x06UL) << 40) | ((ulong)index << 32) | (physical & 0xFFFFFFFF);
}
