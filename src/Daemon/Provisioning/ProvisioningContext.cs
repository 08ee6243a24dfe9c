using Microsoft.Extensions.Logging;
using Virtbus.Core;

namespace Virtbus.Daemon.Provisioning;

/// <summary>What a provisioner works with.</summary>
/// <param name="Fabric">The fabric, with its buses.</param>
/// <param name="Modules">Loads driver modules by name.</param>
/// <param name="RuntimeFolder">Where sockets go.</param>
/// <param name="LoggerFactory">Makes loggers.</param>
internal sealed record ProvisioningContext(Fabric Fabric, ModuleLoader Modules, string RuntimeFolder, ILoggerFactory LoggerFactory)
{
    /// <summary>The switches that network devices are on.</summary>
    public NamedSwitches Switches { get; } = new();
}
