using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace Virtbus.Core;

/// <summary>What a fabric is made with.</summary>
public sealed class FabricOptions
{
    /// <summary>Where control-plane work runs.</summary>
    public FabricScheduler Scheduler { get; init; } = FabricScheduler.ThreadPool;

    /// <summary>The clock.</summary>
    public TimeProvider Time { get; init; } = TimeProvider.System;

    /// <summary>Where log lines go.</summary>
    public ILoggerFactory LoggerFactory { get; init; } = NullLoggerFactory.Instance;

    /// <summary>How many events are kept; at least 1.</summary>
    public int UeventHistory { get; init; } = 4096;
}
