using System.Runtime.InteropServices;

namespace Virtbus.Transports.Fuse;

/// <summary>struct fuse_attr.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FuseAttributes
{
    internal ulong Ino;
    internal ulong Size;
    internal ulong Blocks;
    internal ulong Atime;
    internal ulong Mtime;
    internal ulong Ctime;
    internal uint AtimeNsec;
    internal uint MtimeNsec;
    internal uint CtimeNsec;
    internal uint Mode;
    internal uint Nlink;
    internal uint Uid;
    internal uint Gid;
    internal uint Rdev;
    internal uint BlkSize;
    internal uint Flags;
}

/// <summary>struct fuse_entry_out.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FuseEntryOut
{
    internal ulong NodeId;
    internal ulong Generation;
    internal ulong EntryValid;
    internal ulong AttrValid;
    internal uint EntryValidNsec;
    internal uint AttrValidNsec;
    internal FuseAttributes Attr;
}

/// <summary>struct fuse_attr_out.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FuseAttrOut
{
    internal ulong AttrValid;
    internal uint AttrValidNsec;
    internal uint Padding;
    internal FuseAttributes Attr;
}

/// <summary>struct fuse_init_out.</summary>
[StructLayout(LayoutKind.Sequential, Size = 64)]
internal struct FuseInitOut
{
    internal uint Major;
    internal uint Minor;
    internal uint MaxReadahead;
    internal uint Flags;
    internal ushort MaxBackground;
    internal ushort CongestionThreshold;
    internal uint MaxWrite;
    internal uint TimeGran;
}

/// <summary>struct fuse_open_out.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FuseOpenOut
{
    internal ulong Handle;
    internal uint OpenFlags;
    internal int BackingId;
}

/// <summary>struct fuse_read_in, and struct fuse_write_in, whose bytes follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly struct FuseTransferIn
{
    internal readonly ulong Handle;
    internal readonly ulong Offset;
    internal readonly uint Size;
    internal readonly uint TransferFlags;
    internal readonly ulong LockOwner;
    internal readonly uint Flags;
    internal readonly uint Padding;
}

/// <summary>struct fuse_poll_in.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly struct FusePollIn
{
    internal readonly ulong Handle;
    internal readonly ulong KernelHandle;
    internal readonly uint Flags;
    internal readonly uint Events;
}

/// <summary>struct fuse_statfs_out.</summary>
[StructLayout(LayoutKind.Sequential, Size = 80)]
internal struct FuseStatfsOut
{
    internal ulong Blocks;
    internal ulong Bfree;
    internal ulong Bavail;
    internal ulong Files;
    internal ulong Ffree;
    internal uint Bsize;
    internal uint Namelen;
    internal uint Frsize;
}

/// <summary>struct fuse_dirent, behind which its name stands.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FuseDirent
{
    internal ulong Ino;
    internal ulong Offset;
    internal uint NameLength;
    internal uint Type;
}
