using Virtbus.Buses.Pci;
using Virtbus.Hardware.Serial;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A serial port: its hardware, the socket of its line, and its device on the bus.</summary>
internal sealed class SerialDevice(string name, SerialFunction function, SerialConsole console) : IAsyncDisposable
{
    /// <summary>The name that the manifest gives it.</summary>
    public string Name => name;

    /// <summary>The hardware.</summary>
    public SerialFunction Function => function;

    /// <summary>The socket of its line.</summary>
    public SerialConsole Console => console;

    /// <summary>The device that the function was given first; null until it is in its slot.</summary>
    public PciDevice? Device { get; set; }

    public async ValueTask DisposeAsync()
    {
        // Not the device: by a remove and a rescan that is another one now. Somebody may have pulled the hardware out, too.
        if (Device is { } device)
            await device.Fabric!.GetBus<PciBus>().UnplugAsync(function);
        await console.DisposeAsync();
        function.Dispose();
    }
}
