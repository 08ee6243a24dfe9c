namespace Virtbus.Subsystems.Vfio;

/// <summary>Where a transport has put a VFIO device for users to open, as the device's attributes show it.</summary>
public interface IVfioEndpoint
{
    /// <summary>The socket's path.</summary>
    string Path { get; }

    /// <summary>True while a user has the device open.</summary>
    bool IsConnected { get; }
}
