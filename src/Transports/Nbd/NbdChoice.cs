namespace Virtbus.Transports.Nbd;

/// <summary>What a client and the server have agreed on when the handshake is over.</summary>
/// <param name="Export">The disk; the session has entered it.</param>
/// <param name="Flags">What the client was told that it may do.</param>
/// <param name="IsStructured">Whether reads are answered by structured replies.</param>
/// <param name="HasAllocation">Whether the client may ask for base:allocation.</param>
internal sealed record NbdChoice(NbdExport Export, ushort Flags, bool IsStructured, bool HasAllocation);
