using Virtbus.Platform;

namespace Virtbus.Transports;

/// <summary>One peer of a server, from its connect to its going. Used by a thread of its own.</summary>
internal interface IPeerSession : IDisposable
{
    /// <summary>Answers requests until the peer goes, sends what is no message, or <see cref="Close"/> is called.</summary>
    /// <returns>Why it ended, in words.</returns>
    string Run();

    /// <summary>Ends the connection from outside. Safe from any thread, also when the session is over.</summary>
    void Close(Fault reason);
}
