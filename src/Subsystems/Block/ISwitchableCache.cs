using Virtbus.Platform;

namespace Virtbus.Subsystems.Block;

/// <summary>What a driver's back end is as well whose disk can have its write cache switched on and off (Linux: cache_type of virtio and SCSI disks). Any thread.</summary>
public interface ISwitchableCache
{
    /// <summary>Whether that can be done with this disk.</summary>
    bool CanSwitch { get; }

    /// <summary>Switches it. <see cref="Virtbus.Block.BlockInfo.HasWriteCache"/> says what is in force.</summary>
    /// <param name="writeback">Whether the disk is to have a write-back cache.</param>
    /// <param name="fault">EOPNOTSUPP, EAGAIN, EIO: it is as it was.</param>
    /// <returns>Whether it is so.</returns>
    bool TrySwitch(bool writeback, out Fault fault);
}
