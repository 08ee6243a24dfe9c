namespace Virtbus.Drivers.Nic;

/// <summary>The way to the outside: addresses, and whether the link carries.</summary>
public interface INicLink
{
    /// <summary>True while the link carries.</summary>
    bool IsLinkUp { get; }

    /// <summary>Asks the adapter for the Ethernet address of one of its ports.</summary>
    /// <param name="port">The port, from 0.</param>
    /// <returns>The address, 48 bits.</returns>
    /// <exception cref="Platform.VirtbusException">EIO: the hardware does not answer as it should.</exception>
    ulong ReadAddress(int port);

    /// <summary>Has a handler told of events until the result is disposed. It runs on the thread that causes the event and must not block.</summary>
    /// <param name="handler">The handler.</param>
    IDisposable Subscribe(Action<NicEvent> handler);
}
