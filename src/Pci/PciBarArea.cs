using Virtbus.Platform;

namespace Virtbus.Pci;

/// <summary>A part of a BAR that is plain memory, so that a user may map it instead of asking for each access.</summary>
/// <param name="Offset">Where in the BAR, a multiple of the page size.</param>
/// <param name="Size">Bytes, a multiple of the page size.</param>
/// <param name="File">The memory's descriptor; it belongs to the function and lives as long.</param>
/// <param name="FileOffset">Where in the file.</param>
public sealed record PciBarArea(ulong Offset, ulong Size, FileDescriptor File, ulong FileOffset)
{
    /// <summary>
    /// Whether it is another process's, as that one offers it: then it need not be of whole pages, and is offered on as it is. Whoever maps it rounds.
    /// </summary>
    public bool IsPeerMemory { get; init; }
}
