namespace Virtbus.Models.VirtioConsole;

/// <summary>Who sits at the other end of a console. Called on threads of the device, under no lock; it must not block.</summary>
public interface IConsolePeer
{
    /// <summary>Bytes that the guest sent.</summary>
    /// <param name="bytes">One or more.</param>
    /// <returns>How many were taken, from the first on. The rest is lost: a guest that waited would wait with its interrupts off.</returns>
    int Receive(ReadOnlySpan<byte> bytes);

    /// <summary>The guest has room again, after <see cref="VirtioConsoleDevice.TrySend"/> took less than it was given.</summary>
    void CanSend();

    /// <summary>Another user of the device begins: what was on its way to the guest until now is for nobody any more.</summary>
    void DropUnsent();
}
