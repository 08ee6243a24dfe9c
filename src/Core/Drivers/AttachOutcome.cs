namespace Virtbus.Core;

/// <summary>How an attempt to attach a device ended.</summary>
internal enum AttachResult
{
    /// <summary>No driver serves the device.</summary>
    NoDriver,
    /// <summary>The device is bound now.</summary>
    Bound,
    /// <summary>The device was bound before.</summary>
    AlreadyBound,
    /// <summary>The device waits for a supplier, or a probe asked to be tried again.</summary>
    Deferred,
    /// <summary>The attempt is made when a device above has finished its own probe or sleep.</summary>
    Parked,
    /// <summary>The attempt was started beside the caller.</summary>
    Started,
    /// <summary>Drivers matched, and every probe failed.</summary>
    Failed,
    /// <summary>The device is gone.</summary>
    Gone,
}

/// <summary>What came of an attach, with the error of the last failed probe.</summary>
internal readonly record struct AttachOutcome(AttachResult Result, Exception? Error = null);
