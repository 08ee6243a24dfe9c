using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Hardware.VirtioPci;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A virtio function with what is behind it: a disk's medium, a console's socket.</summary>
/// <param name="name">Its name.</param>
/// <param name="function">The hardware.</param>
/// <param name="medium">The medium of a disk; else null.</param>
/// <param name="console">The socket of a console; else null.</param>
internal sealed class VirtioPart(string name, VirtioFunction function, IBlockBackend? medium, SerialConsole? console) : IAsyncDisposable
{
    /// <summary>Its name.</summary>
    public string Name => name;

    /// <summary>The hardware.</summary>
    public VirtioFunction Function => function;

    /// <summary>The socket of a console; else null.</summary>
    public SerialConsole? Console => console;

    /// <summary>The device that the function was given first; null until it is in its slot.</summary>
    public PciDevice? Device { get; set; }

    public async ValueTask DisposeAsync()
    {
        // Not the device: by a remove and a rescan that is another one now. Somebody may have pulled the hardware out, too.
        if (Device is { } device)
            await device.Fabric!.GetBus<PciBus>().UnplugAsync(function);
        if (console is not null)
            await console.DisposeAsync();
        function.Dispose();
        medium?.Dispose();
    }
}
