namespace Virtbus.Drivers.VirtioBlk;

/// <summary>How a slot comes back to its channel.</summary>
internal enum BlkOutcome
{
    /// <summary>The device used it.</summary>
    Used,
    /// <summary>The device was reset before it did: it goes out again.</summary>
    Again,
    /// <summary>The queue is broken, or the device gone.</summary>
    Failed,
}
