namespace Virtbus.Daemon.Manifest;

/// <summary>A serial port on PCI, with a socket for the text that goes over its line.</summary>
/// <param name="Name">The port's name.</param>
/// <param name="Driver">The only driver that may take it; that is how it comes to be offered to virtual machines.</param>
internal sealed record SerialManifest(ManifestValue<string> Name, ManifestValue<string> Driver);
