namespace Virtbus.Memory;

/// <summary>What is one mapping: a file and what may be done with it.</summary>
/// <param name="Device">The file system.</param>
/// <param name="Inode">The file's number there.</param>
/// <param name="Born">When the file was made, since numbers come round: a peer could make files until one has the number of another peer's.</param>
/// <param name="Writable">Whether the mapping can be written.</param>
/// <param name="Account">Who has it to itself, where the file system does not say when a file was made (hugetlbfs); else null.</param>
internal readonly record struct FileIdentity(ulong Device, ulong Inode, long Born, bool Writable, object? Account);
