using Virtbus.Platform;

namespace Virtbus.Pci;

/// <summary>A part of a BAR that is plain memory, so that a user may map it instead of asking for each access.</summary>
/// <param name="Offset">Where in the BAR, a multiple of the page size.</param>
/// <param name="Size">Bytes, a multiple of the page size.</param>
/// <param name="File">The memory's descriptor; it belongs to the function and lives as long.</param>
/// <param name="FileOffset">Where in the file.</param>
public sealed record PciBarArea(ulong Offset, ulong Size, FileDescriptor File, ulong FileOffset);
