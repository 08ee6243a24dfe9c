using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Serial;

/// <summary>
/// A PCI serial port with a 16550A, as QEMU's pci-serial (1b36:0002, subsystem 1af4:1100): eight I/O ports behind BAR 0 and INTA. Every Linux has
/// the driver (8250_pci). The interrupt is not gated by OUT2, as that is a matter of the PC's board and not of PCI cards.
/// </summary>
public sealed class SerialFunction : PciFunction, IMovableState
{
    private const int Ports = 8;

    private static readonly ConfigLayout _layout = ConfigSpaceBuilder.Function(0x1B36, 0x0002)
        .Class(0x070002, revision: 1)
        .Subsystem(0x1AF4, 0x1100)
        .InterruptPin(1)
        .IoBar(0, Ports)
        .Build();

    private readonly Uart16550 _uart;

    /// <summary>Makes the function with nobody at the other end of its line.</summary>
    /// <param name="time">For the character timeout; null for the system's.</param>
    public SerialFunction(TimeProvider? time = null)
        : base(_layout)
    {
        _uart = new Uart16550(time ?? TimeProvider.System, StageInterrupt, ShowInterrupt);
        Port = new SerialPort(_uart);
    }

    /// <summary>The other end of the line.</summary>
    public SerialPort Port { get; }

    /// <inheritdoc/>
    /// <remarks>From any thread that is not the peer's. The guest's accesses go on; who pauses sees to it that there are none.</remarks>
    public bool TryPause(out Fault fault)
    {
        _uart.Pause();
        fault = Fault.None;
        return true;
    }

    /// <inheritdoc/>
    public void Resume() => _uart.Continue();

    /// <inheritdoc/>
    /// <remarks>Config space belongs to who has the function and moves with that; who is at the other end of the line does not move.</remarks>
    public bool TrySave(StateWriter writer, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(writer);
        if (!_uart.TryCapture(out var state))
            return RefuseRunning(out fault);
        state.Write(writer);
        fault = Fault.None;
        return true;
    }

    /// <inheritdoc/>
    public bool TryRestore(StateReader reader, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(reader);
        if (!UartState.TryRead(reader, out var state, out fault) || !reader.TryFinish(out fault))
            return false;
        return _uart.TryReplace(state) || RefuseRunning(out fault);
    }

    private static bool RefuseRunning(out Fault fault)
    {
        fault = new Fault(Errno.EBUSY, "the port does not stand still");
        return false;
    }

    /// <inheritdoc/>
    protected override void ReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        for (var i = 0; i < destination.Length; i++)
            destination[i] = bar == 0 ? _uart.Read((int)offset + i) : (byte)0xFF;
    }

    /// <inheritdoc/>
    protected override void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        for (var i = 0; i < source.Length; i++)
            _uart.Write((int)offset + i, source[i]);
    }

    /// <inheritdoc/>
    protected override void OnReset(PciResetKind kind) => _uart.Reset();

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _uart.Dispose();
    }
}
