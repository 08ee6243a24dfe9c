using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Hardware.Serial;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A serial port: its hardware, the socket of its line, and its device on the bus.</summary>
internal sealed class SerialDevice(string name, SerialFunction function, SerialConsole console) : IAsyncDisposable
{
    /// <summary>The name that the manifest gives it.</summary>
    public string Name => name;

    /// <summary>The socket of its line.</summary>
    public SerialConsole Console => console;

    /// <summary>The device; null until the function is in its slot.</summary>
    public PciDevice? Device { get; set; }

    public async ValueTask DisposeAsync()
    {
        // Gone already when somebody pulled it out.
        if (Device is { State: DeviceState.Added } device)
            await device.Fabric!.GetBus<PciBus>().UnplugAsync(device);
        await console.DisposeAsync();
        function.Dispose();
    }
}
