namespace Virtbus.Daemon.Manifest;

/// <summary>Where a disk's sectors are.</summary>
internal abstract record DiskBacking
{
    private DiskBacking()
    {
    }

    /// <summary>In a file, whose length is the disk's.</summary>
    /// <param name="Path">The absolute path.</param>
    /// <param name="IsRaw">Whether its bytes are the disk's even where they look like an image format.</param>
    /// <param name="IsDirect">Whether transfers pass the host's page cache by.</param>
    public sealed record File(string Path, bool IsRaw = false, bool IsDirect = false) : DiskBacking;

    /// <summary>In memory of the daemon; gone with it.</summary>
    /// <param name="Bytes">The disk's size, a multiple of 512.</param>
    public sealed record Memory(long Bytes) : DiskBacking;

    /// <summary>Nowhere: reads give zeros, writes are dropped.</summary>
    /// <param name="Bytes">The disk's size, a multiple of 512.</param>
    public sealed record Null(long Bytes) : DiskBacking;
}
