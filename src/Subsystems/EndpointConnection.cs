namespace Virtbus.Subsystems;

/// <summary>A user who has a device open by its socket, as it was at one moment.</summary>
/// <param name="Process">The process that connected, as the kernel noted it then; 0 when that may not be told, for example of another container.</param>
/// <param name="Name">What the process called itself when it connected, escaped; empty when it is not known.</param>
/// <param name="Since">When it connected.</param>
/// <param name="Messages">How many messages it has sent.</param>
/// <param name="BadMessages">How many of them were refused.</param>
/// <param name="Maps">How many pieces of its memory are mapped for the device.</param>
public sealed record EndpointConnection(int Process, string Name, DateTimeOffset Since, long Messages, long BadMessages, int Maps);
