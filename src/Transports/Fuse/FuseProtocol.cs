namespace Virtbus.Transports.Fuse;

/// <summary>Names and values of the FUSE protocol (linux/fuse.h, 7.40). All fields are in the host's byte order.</summary>
internal static class FuseProtocol
{
    internal const uint FUSE_KERNEL_VERSION = 7;
    internal const uint FUSE_KERNEL_MINOR_VERSION = 40;
    internal const ulong FUSE_ROOT_ID = 1;
    internal const ulong FUSE_UNKNOWN_INO = 0xffffffff;

    internal const uint FUSE_ASYNC_READ = 1 << 0;
    internal const uint FUSE_ATOMIC_O_TRUNC = 1 << 3;
    internal const uint FUSE_BIG_WRITES = 1 << 5;
    internal const uint FUSE_DO_READDIRPLUS = 1 << 13;
    internal const uint FUSE_READDIRPLUS_AUTO = 1 << 14;
    internal const uint FUSE_PARALLEL_DIROPS = 1 << 18;
    internal const uint FUSE_CACHE_SYMLINKS = 1 << 23;

    internal const uint FOPEN_DIRECT_IO = 1 << 0;
    internal const uint FUSE_POLL_SCHEDULE_NOTIFY = 1 << 0;

    internal const uint FATTR_MODE = 1 << 0;
    internal const uint FATTR_UID = 1 << 1;
    internal const uint FATTR_GID = 1 << 2;

    internal const int FUSE_NOTIFY_POLL = 1;
    internal const int FUSE_NOTIFY_INVAL_ENTRY = 3;

    internal const int InHeaderSize = 40;
    internal const int OutHeaderSize = 16;
    internal const int EntrySize = 128;
    internal const int DirentSize = 24;

    /// <summary>The most bytes of one write.</summary>
    internal const int MaxWrite = 64 << 10;

    /// <summary>The most bytes of one read: 32 pages, what the kernel asks for where nothing else was agreed on.</summary>
    internal const int MaxRead = 128 << 10;

    /// <summary>Room that a request has: a write's bytes with what stands before them, at least the 8 KiB that the kernel insists on.</summary>
    internal const int RequestSize = MaxWrite + 4096;

    internal const uint S_IFLNK = 0xA000;
    internal const uint S_IFREG = 0x8000;
    internal const uint S_IFDIR = 0x4000;

    internal const uint O_ACCMODE = 3;
    internal const uint O_RDONLY = 0;
    internal const uint O_WRONLY = 1;

    internal const uint POLLIN = 0x001;
    internal const uint POLLPRI = 0x002;
    internal const uint POLLOUT = 0x004;
    internal const uint POLLERR = 0x008;
    internal const uint POLLRDNORM = 0x040;
    internal const uint POLLWRNORM = 0x100;
}
