using Microsoft.Extensions.Logging;

namespace Virtbus.Buses.Pci;

/// <summary>What the PCI bus logs. Event ids are stable: 2000 to 2099.</summary>
internal static partial class PciLog
{
    [LoggerMessage(2000, LogLevel.Warning, "{Device}: BAR {Bar} of {Size} bytes got no address: the window of {Window} is full")]
    internal static partial void NoAddress(ILogger log, string device, int bar, ulong size, string window);

    [LoggerMessage(2001, LogLevel.Warning, "{Device}: the hardware is gone; the device is taken out")]
    internal static partial void Lost(ILogger log, string device);

    [LoggerMessage(2002, LogLevel.Warning, "{Device}: driver {Driver} left {Count} virtual functions; they are removed")]
    internal static partial void FunctionsLeft(ILogger log, string device, string driver, int count);

    [LoggerMessage(2003, LogLevel.Warning, "{Device}: driver {Driver} left its interrupt vectors; they are freed")]
    internal static partial void VectorsLeft(ILogger log, string device, string driver);

    [LoggerMessage(2004, LogLevel.Error, "{Device}: the handler of vector {Vector} failed; it stays")]
    internal static partial void HandlerFailed(ILogger log, string device, int vector, Exception error);

    [LoggerMessage(2005, LogLevel.Warning, "{Device}: its line stayed asserted through {Calls} calls of the handler; the line is masked")]
    internal static partial void LineStuck(ILogger log, string device, int calls);

    [LoggerMessage(2006, LogLevel.Debug, "{Device}: a message to 0x{Address:x} with 0x{Data:x} is nobody's")]
    internal static partial void StrayMessage(ILogger log, string device, ulong address, uint data);

    [LoggerMessage(2007, LogLevel.Warning, "{Device}: DMA fault at 0x{Address:x}: {Reason} (fault {Count})")]
    internal static partial void DmaFault(ILogger log, string device, ulong address, string reason, long count);

    [LoggerMessage(2008, LogLevel.Warning, "{Device}: NumVFs says {Wanted}, the function shows {There}")]
    internal static partial void FunctionsMissing(ILogger log, string device, int wanted, int there);

    [LoggerMessage(2010, LogLevel.Error, "{Device}: a bug of its model at {Work}; it needs a reset ({Suppressed} before this one not told)")]
    internal static partial void FunctionFailed(ILogger log, string device, string work, long suppressed, Exception error);

    [LoggerMessage(2009, LogLevel.Warning, "{Device}: a rescan could not add it: {Reason}")]
    internal static partial void RescanFailed(ILogger log, string device, string reason);
}
