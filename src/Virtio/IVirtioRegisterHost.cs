namespace Virtbus.Virtio;

/// <summary>What is behind a device's registers on the side of the bus: who has them in a BAR or a window implements it.</summary>
public interface IVirtioRegisterHost
{
    /// <summary>How many vectors a driver may choose from; a number from here on reads back as none.</summary>
    int VectorLimit { get; }

    /// <summary>Raises a vector, on any thread; it must not wait for the device.</summary>
    /// <param name="vector">Below <see cref="VectorLimit"/>.</param>
    void Raise(ushort vector);

    /// <summary>Tells the driver of used buffers; who has more ways than vectors, a line for one, has its own answer. As <see cref="Raise"/>.</summary>
    /// <param name="vector">What the driver gave the queue; <see cref="VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR"/> for none.</param>
    void RaiseQueue(ushort vector)
    {
        if (vector != VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR)
            Raise(vector);
    }

    /// <summary>Tells the driver that the configuration or the status changed. As <see cref="RaiseQueue"/>.</summary>
    /// <param name="vector">What the driver gave changes of the configuration, or none.</param>
    void RaiseConfig(ushort vector)
    {
        if (vector != VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR)
            Raise(vector);
    }

    /// <summary>
    /// A queue broke or the configuration changed: <see cref="VirtioConfigRegisters.TryTakeFault"/> and
    /// <see cref="VirtioConfigRegisters.TakeConfigChange"/> say what. On any thread; it must not wait for the device.
    /// </summary>
    void Tell();

    /// <summary>
    /// A reset that the driver asked for is done, some time after its write, and the driver sees it next: what came of the device meanwhile is to be
    /// forgotten. On any thread; it must not wait for the device.
    /// </summary>
    void ResetEnding()
    {
    }
}
