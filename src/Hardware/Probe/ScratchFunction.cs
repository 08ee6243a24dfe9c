using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Probe;

/// <summary>
/// A small PCI Express function, 5642:00ed, that has one of everything, for tests of what stands on PCI: registers with scratch memory, a DMA
/// engine with a thread of its own, a doorbell that an eventfd can ring, memory that can be mapped, I/O ports, a ROM, INTx, MSI and MSI-X with
/// eight vectors each, function-level reset, PASIDs, and virtual functions.
/// </summary>
/// <remarks>
/// <para>BAR 0: 16 KiB of memory below 4 GiB. Registers (<see cref="ScratchRegister"/>), the MSI-X table at 0x2000, its pending bits at 0x3000.</para>
/// <para>BAR 1: 32 I/O ports. 0 to 15 are plain bytes, a write to 16 rings the doorbell, 20 is its count (32 bits).</para>
/// <para>BAR 2: 64 KiB of prefetchable memory anywhere. Plain, and mappable as a whole.</para>
/// <para>ROM: 4 KiB with a valid header and no code.</para>
/// <para>A virtual function, 5642:00ee, has BAR 0 and BAR 2 (both in 64 bits) and MSI-X. D3hot to D0 resets the physical function and leaves a
/// virtual one as it was.</para>
/// </remarks>
public sealed class ScratchFunction : PciPhysicalFunction, IScratchHost, IMovableState
{
    /// <summary>Vendor id of functions that are Virtbus's own.</summary>
    public const ushort VendorId = 0x5642;

    /// <summary>Device id.</summary>
    public const ushort DeviceId = 0x00ED;

    /// <summary>Device id of the virtual functions.</summary>
    public const ushort VirtualDeviceId = 0x00EE;

    private const string PortsSection = "scratch-ports";
    private const int RomSize = 4096;
    private const int PlainPorts = 16, DoorbellPort = 16, CountPort = 20;
    private static readonly byte[] _rom = MakeRom();
    private readonly ScratchEngine _engine;
    private readonly byte[] _ports = new byte[PlainPorts];
    private readonly ConfigLayout? _virtualLayout;

    /// <summary>Makes the function.</summary>
    /// <param name="virtualFunctions">Virtual functions at most; 0 for no SR-IOV capability.</param>
    /// <param name="name">Name for its thread and memory.</param>
    public ScratchFunction(int virtualFunctions = 0, string name = "scratch")
        : base(MakeLayout(virtualFunctions))
    {
        Name = name;
        _engine = new ScratchEngine(this, name, 0, hasPasid: true);
        if (virtualFunctions > 0)
        {
            _virtualLayout = ConfigSpaceBuilder.VirtualFunction(Config.Layout)
                .PowerManagement(noSoftReset: true)
                .Msix(ScratchEngine.Vectors, ScratchEngine.RegisterBar, ScratchEngine.TableOffset, ScratchEngine.RegisterBar, ScratchEngine.PendingOffset)
                .ErrorReporting()
                .Ari()
                .Ats()
                .Build();
        }
    }

    /// <inheritdoc/>
    public override IReadOnlyList<PciDoorbell> Doorbells => ScratchEngine.Doorbells;

    internal string Name { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<PciBarArea> GetBarAreas(int bar) => bar == ScratchEngine.MemoryBar ? _engine.Areas : [];

    /// <inheritdoc/>
    public override bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault) => _engine.TryAttach(doorbell, signal, out fault);

    /// <summary>Makes the function fail for good, as hardware does that breaks or is pulled out: it reads as all ones from now on.</summary>
    public void Break() => Lose();

    /// <inheritdoc/>
    /// <remarks>From any thread. The user's accesses go on; who pauses sees to it that there are none. A transfer that is asked for waits.</remarks>
    public bool TryPause(out Fault fault)
    {
        _engine.Pause();
        fault = Fault.None;
        return true;
    }

    /// <inheritdoc/>
    public void Resume() => _engine.Resume();

    /// <inheritdoc/>
    /// <remarks>Config space belongs to who has the function, and moves with that.</remarks>
    public bool TrySave(StateWriter writer, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(writer);
        if (!_engine.TrySave(writer, out fault))
            return false;
        writer.Add(PortsSection, 1, _ports);
        return true;
    }

    /// <inheritdoc/>
    public bool TryRestore(StateReader reader, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(reader);
        if (!_engine.TryRead(reader, out var image, out fault) || !reader.TryTake(PortsSection, 1, PlainPorts, PlainPorts, out var ports, out fault)
            || !reader.TryFinish(out fault) || !_engine.TryApply(image, out fault))
            return false;
        ports.Content.Span.CopyTo(_ports);
        return true;
    }

    PciPortUse IScratchHost.UsePort() => UsePort();

    bool IScratchHost.RaiseMessage(int vector) => RaiseMessage(vector);

    void IScratchHost.StageInterrupt(bool asserted) => StageInterrupt(asserted);

    void IScratchHost.ShowInterrupt() => ShowInterrupt();

    /// <inheritdoc/>
    protected override PciVirtualFunction CreateVirtualFunction(int index) => new ScratchVirtualFunction(this, index, _virtualLayout!);

    /// <inheritdoc/>
    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        if (bar == PciBar.Rom)
            _rom.AsSpan((int)offset, destination.Length).CopyTo(destination);
        else if (bar == ScratchEngine.PortBar)
            ReadPorts((int)offset, destination);
        else
            _engine.Read(bar, offset, destination);
    }

    /// <inheritdoc/>
    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (bar != ScratchEngine.PortBar)
        {
            _engine.Write(bar, offset, source);
            return;
        }
        for (var i = 0; i < source.Length; i++)
        {
            if ((int)offset + i < PlainPorts)
                _ports[(int)offset + i] = source[i];
            else if ((int)offset + i == DoorbellPort)
                _engine.Ring(source[i]);
        }
    }

    /// <inheritdoc/>
    protected override void OnReset(PciResetKind kind)
    {
        _engine.Reset();
        _ports.AsSpan().Clear();
    }

    /// <inheritdoc/>
    protected override void OnPlugged(DmaPort dma) => _engine.Plugged(dma);

    /// <inheritdoc/>
    protected override void OnUnplugged() => _engine.Unplugged();

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _engine.Dispose();
    }

    private static ConfigLayout MakeLayout(int virtualFunctions)
    {
        var builder = ConfigSpaceBuilder.Function(VendorId, DeviceId)
            .Class(0xFF0000, revision: 1)
            .Subsystem(VendorId, 0x0001)
            .InterruptPin(1)
            .MemoryBar(ScratchEngine.RegisterBar, ScratchEngine.RegisterSize)
            .IoBar(ScratchEngine.PortBar, 32)
            .MemoryBar64(ScratchEngine.MemoryBar, ScratchEngine.MemorySize)
            .Rom(RomSize)
            .PowerManagement(noSoftReset: false)
            .Msi(ScratchEngine.Vectors)
            .Msix(ScratchEngine.Vectors, ScratchEngine.RegisterBar, ScratchEngine.TableOffset, ScratchEngine.RegisterBar, ScratchEngine.PendingOffset)
            .Express(new PciExpressOptions { Type = PciPortType.LegacyEndpoint })
            .ErrorReporting()
            .Ari()
            .Ats()
            .Pasid();
        if (virtualFunctions > 0)
        {
            builder.Sriov(new SriovOptions
            {
                TotalVfs = virtualFunctions,
                VfDeviceId = VirtualDeviceId,
                VfBars =
                [
                    new PciBar(PciBarKind.Memory64, ScratchEngine.RegisterSize), default,
                    new PciBar(PciBarKind.Memory64, ScratchEngine.MemorySize, IsPrefetchable: true),
                ],
            });
        }
        return builder.Build();
    }

    // The header of a PCI expansion ROM: signature, pointer to the data structure, that structure, and a checksum of zero.
    private static byte[] MakeRom()
    {
        const int Structure = 0x1C;
        var rom = new byte[RomSize];
        (rom[0], rom[1], rom[2], rom[0x18]) = (0x55, 0xAA, RomSize / 512, Structure);
        "PCIR"u8.CopyTo(rom.AsSpan(Structure));
        (rom[Structure + 4], rom[Structure + 5]) = (unchecked((byte)VendorId), VendorId >> 8);
        (rom[Structure + 6], rom[Structure + 7]) = (unchecked((byte)DeviceId), DeviceId >> 8);
        rom[Structure + 0x0A] = 0x18;
        rom[Structure + 0x0F] = 0xFF;
        rom[Structure + 0x10] = RomSize / 512;
        const byte OtherCode = 0xFF, LastImage = 0x80;
        (rom[Structure + 0x14], rom[Structure + 0x15]) = (OtherCode, LastImage);
        byte sum = 0;
        foreach (var value in rom)
            sum += value;
        rom[^1] = (byte)-sum;
        return rom;
    }

    private void ReadPorts(int offset, Span<byte> destination)
    {
        var count = _engine.DoorbellCount;
        for (var i = 0; i < destination.Length; i++)
        {
            var port = offset + i;
            destination[i] = port < PlainPorts ? _ports[port]
                : port is >= CountPort and < CountPort + 4 ? (byte)(count >> (8 * (port - CountPort)))
                : (byte)0;
        }
    }
}
