namespace Virtbus.Platform.IoUring;

/// <summary>What a ring can be asked to do (enum io_uring_op).</summary>
public enum IoRingOperation
{
    /// <summary>Read into several runs.</summary>
    ReadVectors = 1,
    /// <summary>Write several runs.</summary>
    WriteVectors = 2,
    /// <summary>Make durable what was written.</summary>
    Sync = 3,
    /// <summary>Give room back, or make zeros.</summary>
    Allocate = 17,
    /// <summary>Read into one run.</summary>
    Read = 22,
    /// <summary>Write one run.</summary>
    Write = 23,
}
