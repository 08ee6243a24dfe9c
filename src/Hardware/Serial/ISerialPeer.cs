namespace Virtbus.Hardware.Serial;

/// <summary>Who sits at the other end of a serial port's line. Called on threads of the function, under no lock; it must not block.</summary>
public interface ISerialPeer
{
    /// <summary>Bytes that the guest sent.</summary>
    /// <param name="bytes">One or more.</param>
    /// <returns>How many were taken, from the first on. The port keeps the rest, and with it the guest waits, until <see cref="SerialPort.Resume"/>.</returns>
    int Receive(ReadOnlySpan<byte> bytes);

    /// <summary>The guest has room again, after <see cref="SerialPort.TrySend"/> took less than it was given.</summary>
    void CanSend();

    /// <summary>
    /// The port is being reset, perhaps for another guest: what was on its way to the guest until now is for nobody any more. What comes later
    /// is for whoever comes after.
    /// </summary>
    void DropUnsent();
}
