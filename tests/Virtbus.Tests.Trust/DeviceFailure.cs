namespace Virtbus.Tests.Trust;

/// <summary>A device does not do what it is for.</summary>
internal sealed class DeviceFailure(string message) : Exception(message);
