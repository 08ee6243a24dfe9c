using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Probe;

/// <summary>A virtual function of a <see cref="ScratchFunction"/>: its registers, memory and DMA engine over again.</summary>
internal sealed class ScratchVirtualFunction : PciVirtualFunction, IScratchHost, IMovableState
{
    private readonly ScratchEngine _engine;

    internal ScratchVirtualFunction(ScratchFunction physical, int index, ConfigLayout layout)
        : base(physical, index, layout) => _engine = new ScratchEngine(this, $"{physical.Name}-vf{index}", index + 1, hasPasid: false);

    /// <inheritdoc/>
    public override IReadOnlyList<PciDoorbell> Doorbells => ScratchEngine.Doorbells;

    /// <inheritdoc/>
    public override IReadOnlyList<PciBarArea> GetBarAreas(int bar) => bar == ScratchEngine.MemoryBar ? _engine.Areas : [];

    /// <inheritdoc/>
    public override bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault) => _engine.TryAttach(doorbell, signal, out fault);

    public bool TryPause(out Fault fault)
    {
        _engine.Pause();
        fault = Fault.None;
        return true;
    }

    public void Resume() => _engine.Resume();

    public bool TrySave(StateWriter writer, out Fault fault) => _engine.TrySave(writer, out fault);

    public bool TryRestore(StateReader reader, out Fault fault) =>
        _engine.TryRead(reader, out var image, out fault) && reader.TryFinish(out fault) && _engine.TryApply(image, out fault);

    PciPortUse IScratchHost.UsePort() => UsePort();

    bool IScratchHost.RaiseMessage(int vector) => RaiseMessage(vector);

    void IScratchHost.StageInterrupt(bool asserted) => StageInterrupt(asserted);

    void IScratchHost.ShowInterrupt() => ShowInterrupt();

    /// <inheritdoc/>
    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination) => _engine.Read(bar, offset, destination);

    /// <inheritdoc/>
    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source) => _engine.Write(bar, offset, source);

    /// <inheritdoc/>
    protected override void OnReset(PciResetKind kind) => _engine.Reset();

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
}
