using Virtbus.Platform;

namespace Virtbus.Subsystems;

/// <summary>A device that a transport can offer on a socket. Any thread.</summary>
public interface IOfferedDevice
{
    /// <summary>The name that users know.</summary>
    string Label { get; }

    /// <summary>Where a transport put it, or null. The transport sets it.</summary>
    IDeviceEndpoint? Endpoint { get; set; }

    /// <summary>Why a transport can't offer it, or null. The transport sets it when the device is added; the registration fails with it.</summary>
    VirtbusException? EndpointError { get; set; }
}
