namespace Virtbus.Platform;

/// <summary>What kind of file a path or descriptor is (the S_IFMT bits of its mode).</summary>
public enum FileKind
{
    /// <summary>None of the others.</summary>
    Other = 0,
    /// <summary>A pipe with a name.</summary>
    Pipe = 0x1000,
    /// <summary>A character device.</summary>
    CharacterDevice = 0x2000,
    /// <summary>A directory.</summary>
    Directory = 0x4000,
    /// <summary>A block device.</summary>
    BlockDevice = 0x6000,
    /// <summary>A regular file; a memfd and a file on hugetlbfs too.</summary>
    Regular = 0x8000,
    /// <summary>A symbolic link.</summary>
    Link = 0xa000,
    /// <summary>A Unix socket.</summary>
    Socket = 0xc000,
}
