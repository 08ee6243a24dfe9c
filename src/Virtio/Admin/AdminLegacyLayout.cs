namespace Virtbus.Virtio.Admin;

/// <summary>The data of commands that reach a member's legacy registers (VIRTIO 1.4, 2.12.1.1).</summary>
public static class AdminLegacyLayout
{
    /// <summary>Before what is written: the offset in the first byte, 7 reserved ones.</summary>
    public const int WriteHeaderSize = 8;

    /// <summary>Data of a read: the offset alone.</summary>
    public const int ReadSize = 1;

    /// <summary>How many places of notifications an answer has room for; the last one is the end of the list.</summary>
    public const int NotifyEntries = 4;
}
