namespace Virtbus.Platform;

/// <summary>What the kernel says of a file in memory (memfd, tmpfs, hugetlbfs) and of the descriptor by which it is reached.</summary>
/// <param name="File">The file.</param>
/// <param name="CanRead">Whether the descriptor is open for reading; without that nothing can be mapped.</param>
/// <param name="CanWrite">Whether the descriptor is open for writing too, and no seal of the file forbids a mapping that can be written.</param>
public readonly record struct MemoryFileStatus(FileStatus File, bool CanRead, bool CanWrite);
