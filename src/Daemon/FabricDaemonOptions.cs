using Microsoft.Extensions.Logging;
using Virtbus.Daemon.Manifest;

namespace Virtbus.Daemon;

/// <summary>What a daemon is made with.</summary>
internal sealed class FabricDaemonOptions
{
    /// <summary>The runtime folder, prepared.</summary>
    public required RuntimeFolder Runtime { get; init; }

    /// <summary>What the fabric is made of.</summary>
    public required FabricManifest Manifest { get; init; }

    /// <summary>What the manifest is called when the daemon is asked what it runs.</summary>
    public required string ManifestName { get; init; }

    /// <summary>Makes the loggers of everything.</summary>
    public required ILoggerFactory LoggerFactory { get; init; }

    /// <summary>The folder of the program's own modules.</summary>
    public string ModulesFolder { get; init; } = Path.Combine(AppContext.BaseDirectory, "modules");

    /// <summary>The clock.</summary>
    public TimeProvider Time { get; init; } = TimeProvider.System;

    /// <summary>Told each step of going up and down, in a few words.</summary>
    public Action<string> Progress { get; init; } = _ => { };
}
