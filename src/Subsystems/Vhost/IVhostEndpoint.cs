namespace Virtbus.Subsystems.Vhost;

/// <summary>Where a transport has put a vhost device for users to open, as the device's attributes show it.</summary>
public interface IVhostEndpoint
{
    /// <summary>The socket's path.</summary>
    string Path { get; }

    /// <summary>True while a user has the device open.</summary>
    bool IsConnected { get; }
}
