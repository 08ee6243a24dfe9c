using Virtbus.Core;
using Virtbus.Daemon.Manifest;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// Makes the hardware that a manifest names. The daemon calls it in this order: media, adapters, then disks, then serial ports, then functions. Disposing it takes all that
/// it made away again, newest first; sockets included. By then drivers have been shut down.
/// </summary>
internal interface IProvisioner : IAsyncDisposable
{
    /// <summary>The sockets that the devices of the fabric offer at this moment.</summary>
    IReadOnlyList<DeviceSocket> Sockets { get; }

    /// <summary>Makes ready to offer devices on sockets; called once, before anything is made.</summary>
    ValueTask StartAsync();

    /// <summary>Refuses a fabric with a device that could not be offered on its socket, though a driver was to do so.</summary>
    /// <exception cref="Virtbus.Platform.VirtbusException">As the listener says it of the socket's path.</exception>
    void CheckOffered();

    /// <summary>Opens the media of all disks, before anything is made, so that all that is wrong with them is told at once.</summary>
    /// <param name="manifest">The manifest.</param>
    /// <exception cref="ManifestException">Some can't be opened.</exception>
    void OpenMedia(FabricManifest manifest);

    /// <summary>Takes all devices away from the virtual machines and programs that have them open: at the end nobody waits for them.</summary>
    void RevokeAll();

    /// <summary>Makes an adapter. Its drivers may still be probing when the call returns.</summary>
    /// <param name="adapter">The adapter.</param>
    /// <param name="cancellationToken">Cancelled when the daemon is to end.</param>
    /// <returns>The adapter's device, below which the manifest may hang others.</returns>
    /// <exception cref="Virtbus.Platform.VirtbusException">The adapter can't be made.</exception>
    ValueTask<Device> ProvisionAdapterAsync(AdapterManifest adapter, CancellationToken cancellationToken);

    /// <summary>Makes a disk on an adapter that was made before.</summary>
    /// <param name="disk">The disk.</param>
    /// <param name="cancellationToken">Cancelled when the daemon is to end.</param>
    /// <exception cref="Virtbus.Platform.VirtbusException">The disk can't be made.</exception>
    ValueTask ProvisionDiskAsync(DiskManifest disk, CancellationToken cancellationToken);

    /// <summary>Makes a serial port and the socket of its line.</summary>
    /// <param name="serial">The port.</param>
    /// <param name="cancellationToken">Cancelled when the daemon is to end.</param>
    /// <exception cref="Virtbus.Platform.VirtbusException">The port can't be made.</exception>
    ValueTask ProvisionSerialAsync(SerialManifest serial, CancellationToken cancellationToken);

    /// <summary>Opens a function at its provider and plugs it in.</summary>
    /// <param name="function">The function.</param>
    /// <param name="cancellationToken">Cancelled when the daemon is to end.</param>
    /// <exception cref="Virtbus.Platform.VirtbusException">The provider does not have it, or the bus has no place for it.</exception>
    ValueTask ProvisionFunctionAsync(FunctionManifest function, CancellationToken cancellationToken);
}
