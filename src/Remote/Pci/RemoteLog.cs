using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>What functions from elsewhere log. Event ids are stable: 1300 to 1399.</summary>
internal static partial class RemoteLog
{
    [LoggerMessage(1300, LogLevel.Warning, "{Function}: memory at 0x{Start:x} of {Size} bytes is out of its reach: {Error}. Raise the limit of locked memory (ulimit -l) when that is ENOMEM.")]
    internal static partial void NotMapped(ILogger log, string function, ulong start, ulong size, Errno error);

    [LoggerMessage(1301, LogLevel.Warning, "{Function}: interrupts could not be set up: {Error}")]
    internal static partial void NoInterrupts(ILogger log, string function, Errno error);

    [LoggerMessage(1302, LogLevel.Warning, "{Function}: the host wants it back")]
    internal static partial void Requested(ILogger log, string function);
}
