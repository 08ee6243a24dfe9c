namespace Virtbus.Core;

/// <summary>A counted reference to a device. The device is not released before this is disposed; disposing twice is harmless.</summary>
public sealed class DeviceReference : IDisposable
{
    private Device? _device;

    internal DeviceReference(Device device) => _device = device.Get();

    /// <summary>The device.</summary>
    /// <exception cref="ObjectDisposedException">The reference was given up.</exception>
    public Device Device => _device ?? throw new ObjectDisposedException(nameof(DeviceReference));

    /// <summary>Gives the reference up.</summary>
    public void Dispose() => Interlocked.Exchange(ref _device, null)?.Put();
}
