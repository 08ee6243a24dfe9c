using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>Answers a request of the peer.</summary>
/// <param name="message">The request, valid during the call.</param>
/// <param name="fault">Why the connection has to end.</param>
/// <returns>False when it has to end.</returns>
internal delegate bool VfioUserCommandHandler(in VfioUserMessage message, out Fault fault);
