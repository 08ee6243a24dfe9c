namespace Virtbus.Platform;

/// <summary>
/// What holds a user's state and can give it to another one of its kind: in another process, on another machine, or after an upgrade. Whoever
/// moves it pauses, saves, restores it into the other one (which is paused too), and resumes that. Calls come one at a time; from which thread
/// the implementer says. Memory, descriptors and connections are not part of a state: who moves it gives the other one its own.
/// </summary>
public interface IMovableState
{
    /// <summary>
    /// Makes it stand still: when this returns it reaches no memory and tells nobody anything, and what it had in work is done. What its driver
    /// asks meanwhile is kept for <see cref="Resume"/>. Without effect when it stands still already.
    /// </summary>
    /// <param name="fault">Why it can't.</param>
    bool TryPause(out Fault fault);

    /// <summary>Lets it go on where it is. Without effect when it runs.</summary>
    void Resume();

    /// <summary>Writes the whole state, as sections.</summary>
    /// <param name="writer">Takes them.</param>
    /// <param name="fault">EBUSY: it does not stand still; EOPNOTSUPP: something in it can't be moved.</param>
    bool TrySave(StateWriter writer, out Fault fault);

    /// <summary>Takes a state over, and stands still until it is resumed. What comes is not trusted.</summary>
    /// <param name="reader">The sections; all of them are taken, or refused.</param>
    /// <param name="fault">EBUSY: it does not stand still; EINVAL: the section and version that do not fit, and why. Nothing changed then.</param>
    bool TryRestore(StateReader reader, out Fault fault);
}
