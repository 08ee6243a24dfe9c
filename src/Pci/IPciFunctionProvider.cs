using Virtbus.Platform;

namespace Virtbus.Pci;

/// <summary>
/// Where functions come from: simulated hardware, another process's vfio-user sockets, or the host. What they give looks alike to the bus.
/// </summary>
public interface IPciFunctionProvider
{
    /// <summary>The provider's name, one word.</summary>
    string Name { get; }

    /// <summary>What a name of a function is, after "write", for who defines one before it is opened.</summary>
    string NameDescription => "the name of a function of this provider; /bus/pci/providers lists what can be listed";

    /// <summary>Whether a text can be a name; whether there is such a function is seen when it is opened.</summary>
    /// <param name="name">The text.</param>
    bool IsName(string name) => true;

    /// <summary>The functions that could be opened now, by the names that <see cref="OpenAsync"/> takes; empty when they can't be listed.</summary>
    /// <exception cref="VirtbusException">There is none, and can't be any as things are; the message says why, and what to do.</exception>
    IReadOnlyList<string> List();

    /// <summary>Opens a function; it belongs to the caller, who puts it into a slot and disposes it at last.</summary>
    /// <param name="name">The provider's name for it, for example 0000:03:00.1.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="VirtbusException">It is not there, in use, or not allowed; the message says what to do.</exception>
    ValueTask<IPciFunction> OpenAsync(string name, CancellationToken cancellationToken = default);
}
