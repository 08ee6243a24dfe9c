using Virtbus.Platform;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>A register of a server's device that an eventfd stands for.</summary>
/// <param name="Register">Where it is, and what must be written.</param>
/// <param name="Signal">What to signal in place of a write; it belongs to the client and lives as long.</param>
public sealed record VfioUserDoorbell(VfioDoorbell Register, EventFd Signal);
