namespace Virtbus.Platform;

/// <summary>
/// The one exception base for errors that an operator or the host causes: a wrong name, a busy device, a missing file.
/// <see cref="Exception.Message"/> is a sentence that names the object, the value and the remedy; <see cref="Errno"/> is what Linux answers.
/// Never thrown on a data path: what a peer sends wrong is a <see cref="Fault"/>.
/// </summary>
public class VirtbusException : Exception
{
    /// <summary>Makes an error.</summary>
    /// <param name="errno">What Linux answers to the same request.</param>
    /// <param name="message">A sentence naming the object, the value and the remedy.</param>
    /// <param name="inner">The cause, where there is one.</param>
    public VirtbusException(Errno errno, string message, Exception? inner = null)
        : base(message, inner) => Errno = errno;

    /// <summary>What Linux answers to the same request.</summary>
    public Errno Errno { get; }

    /// <summary>
    /// The part of a request that it is about, by the name that the request has for it ("driver", "tap"), so that who has the request in a file can say
    /// where that is; null when it is about the whole.
    /// </summary>
    public string? Field { get; init; }

    /// <summary>The same error, about a part of a request.</summary>
    /// <param name="field">The part, as <see cref="Field"/>.</param>
    public VirtbusException At(string field) => new(Errno, Message, this) { Field = field };
}
