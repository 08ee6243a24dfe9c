namespace Virtbus.Virtio;

/// <summary>How a driver reaches a device's registers, whatever bus they are on. Any thread.</summary>
public interface IVirtioRegisterAccess
{
    /// <summary>Reads registers; all ones when the device is gone.</summary>
    /// <param name="offset">First byte, see <see cref="VirtioCommonConfig"/>.</param>
    /// <param name="destination">Where to; 1, 2, 4 or 8 bytes for one register.</param>
    void Read(int offset, Span<byte> destination);

    /// <summary>Writes a register. A write that stops a queue returns when that is done.</summary>
    /// <param name="offset">First byte, see <see cref="VirtioCommonConfig"/>.</param>
    /// <param name="source">Where from; 1, 2, 4 or 8 bytes.</param>
    void Write(int offset, ReadOnlySpan<byte> source);

    /// <summary>Reads the configuration space of the device's type; all ones when the device is gone.</summary>
    /// <param name="offset">First byte in the space.</param>
    /// <param name="destination">Where to.</param>
    void ReadConfig(int offset, Span<byte> destination);

    /// <summary>Writes the configuration space of the device's type.</summary>
    /// <param name="offset">First byte in the space.</param>
    /// <param name="source">Where from.</param>
    void WriteConfig(int offset, ReadOnlySpan<byte> source);
}
