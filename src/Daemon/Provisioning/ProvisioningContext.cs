using Microsoft.Extensions.Logging;
using Virtbus.Core;

namespace Virtbus.Daemon.Provisioning;

/// <summary>What a provisioner works with.</summary>
/// <param name="Fabric">The fabric, with its buses registered.</param>
/// <param name="RuntimeFolder">Where sockets go; private to the user.</param>
/// <param name="LoggerFactory">Makes loggers.</param>
internal sealed record ProvisioningContext(Fabric Fabric, string RuntimeFolder, ILoggerFactory LoggerFactory);
