namespace Virtbus.Transports.Nbd;

/// <summary>The bounds of an NBD server.</summary>
public sealed record NbdServerOptions
{
    /// <summary>How many connections are served at once; who comes meanwhile waits. A client may have several.</summary>
    public int Connections { get; init; } = 32;

    /// <summary>How long a client may take from its connect to its first request.</summary>
    public TimeSpan HandshakeTime { get; init; } = TimeSpan.FromSeconds(10);
}
