using System.Buffers;

namespace Virtbus.Virtio.Admin;

/// <summary>
/// A device that commands of an administration queue are about. On the queue's thread; none waits long for anybody: what would is answered with
/// <see cref="AdminAnswer.TryAgain"/>. A refused call changes nothing.
/// </summary>
public interface IAdminMember
{
    /// <summary>Where it takes notifications of a legacy driver: writes of 2 bytes, the number of a queue.</summary>
    LegacyNotifyInfo NotifyInfo { get; }

    /// <summary>Reads as a legacy driver does.</summary>
    /// <param name="isConfig">Whether the configuration of the device's type is meant, and not the header before it.</param>
    /// <param name="offset">First byte there.</param>
    /// <param name="destination">Where to; any length.</param>
    /// <returns>INVALID_FIELD when that is not within one field.</returns>
    AdminAnswer ReadLegacy(bool isConfig, int offset, Span<byte> destination);

    /// <summary>Writes as a legacy driver does.</summary>
    /// <param name="isConfig">As for <see cref="ReadLegacy"/>.</param>
    /// <param name="offset">First byte there.</param>
    /// <param name="source">Where from; any length.</param>
    /// <returns>INVALID_FIELD when that is not within one field.</returns>
    AdminAnswer WriteLegacy(bool isConfig, int offset, ReadOnlySpan<byte> source);

    /// <summary>
    /// Stops the device, or has it go on: stopped, it touches no ring and no buffer, and tells its driver of nothing; buffers that it had taken are handed back. A
    /// reset of the function ends that, one of the device does not.
    /// </summary>
    /// <param name="isStopped">Whether it is to be stopped; it may be already.</param>
    AdminAnswer SetMode(bool isStopped);

    /// <summary>Writes all parts of the device's state, in the standard's order. A device that runs stands still meanwhile.</summary>
    /// <param name="parts">Takes them: each with its header, see <see cref="DevicePart"/>.</param>
    AdminAnswer GetParts(IBufferWriter<byte> parts);

    /// <summary>Sets parts of a stopped device's state, all or none; those that are read-only are compared.</summary>
    /// <param name="parts">The parts; not trusted.</param>
    /// <returns>EBUSY when it is not stopped; INVALID_FIELD.</returns>
    AdminAnswer SetParts(ReadOnlySpan<byte> parts);
}
