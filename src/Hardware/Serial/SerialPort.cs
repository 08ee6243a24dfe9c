using Virtbus.Platform;

namespace Virtbus.Hardware.Serial;

/// <summary>The line of a serial port, for who sits at the other end of it. Safe from any thread.</summary>
public sealed class SerialPort
{
    private readonly Uart16550 _uart;

    internal SerialPort(Uart16550 uart) => _uart = uart;

    /// <summary>Whether somebody is connected; the guest sees it as carrier, data set ready and clear to send.</summary>
    public bool IsConnected => _uart.Peer is not null;

    /// <summary>Plugs the other end in.</summary>
    /// <param name="peer">Who gets what the guest sends. What it sent before is lost, as on a line that leads nowhere.</param>
    /// <param name="fault">EBUSY: somebody else is connected.</param>
    public bool TryConnect(ISerialPeer peer, out Fault fault)
    {
        ArgumentNullException.ThrowIfNull(peer);
        fault = _uart.TryChangePeer(null, peer) ? Fault.None : new Fault(Errno.EBUSY, "somebody is connected to the serial port already");
        return fault == Fault.None;
    }

    /// <summary>Plugs the other end out. A call of it that is under way may end after the return.</summary>
    /// <param name="peer">Who is connected; without effect when that is somebody else.</param>
    public void Disconnect(ISerialPeer peer) => _uart.TryChangePeer(peer, null);

    /// <summary>Sends bytes to the guest, as many as its receive FIFO has room for: up to 16, or one while the guest has not turned the FIFO on.</summary>
    /// <param name="bytes">The bytes.</param>
    /// <param name="resets">
    /// What <see cref="Resets"/> was before the bytes were taken from where they come; with another count by now they are for a guest before and
    /// vanish. Null for bytes of this moment.
    /// </param>
    /// <returns>How many were taken, from the first on. After fewer than all, <see cref="ISerialPeer.CanSend"/> is called once there is room.</returns>
    public int TrySend(ReadOnlySpan<byte> bytes, int? resets = null) => _uart.Receive(bytes, resets);

    /// <summary>How often the port was reset; a new user of the port begins with that.</summary>
    public int Resets => _uart.Resets;

    /// <summary>Sends a break to the guest; lost when its receive FIFO is full.</summary>
    public void SendBreak() => _uart.ReceiveBreak();

    /// <summary>Says that <see cref="ISerialPeer.Receive"/> takes bytes again, after it took fewer than it was given.</summary>
    public void Resume() => _uart.Resume();
}
