namespace Virtbus.Platform;

/// <summary>
/// Why a peer's input (guest, VMM, wire) was refused. Expected, never an exception: a <c>TryX(..., out Fault)</c> hands it back and the
/// caller turns it into the protocol's own answer. Messages are constants, so making one allocates nothing.
/// </summary>
/// <param name="Errno">The error number that the protocol's answer carries.</param>
/// <param name="Message">What rule was broken, for the log.</param>
public readonly record struct Fault(Errno Errno, string Message)
{
    /// <summary>No fault.</summary>
    public static Fault None => default;
}
