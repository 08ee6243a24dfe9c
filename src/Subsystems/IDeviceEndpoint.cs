namespace Virtbus.Subsystems;

/// <summary>Where a transport has put a device for users to open, and who has opened it, as the device's attributes show it. Any thread.</summary>
public interface IDeviceEndpoint
{
    /// <summary>The socket's path.</summary>
    string Path { get; }

    /// <summary>True while a user has the device open.</summary>
    bool IsConnected { get; }

    /// <summary>The user who is connected; null when nobody is.</summary>
    EndpointConnection? Connection { get; }

    /// <summary>How many users have connected so far.</summary>
    long Connections { get; }

    /// <summary>How many messages were refused so far, of all users.</summary>
    long BadMessages { get; }

    /// <summary>
    /// What the user who is connected, or was last, could do better, as a sentence for who started it; null when nothing is known.
    /// </summary>
    string? Hint { get; }

    /// <summary>Ends when the user who is connected now has gone, with all that came from it; has ended when nobody is, or where that is not told.</summary>
    Task Left => Task.CompletedTask;

    /// <summary>Ends the connection of the user who is connected, if there is one and that can be done. It may connect again.</summary>
    void Disconnect()
    {
    }
}
