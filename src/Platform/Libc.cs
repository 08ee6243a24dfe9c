using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>The C library calls that this floor wraps, with the names of the C headers. Nothing above calls them directly.</summary>
internal static unsafe partial class Libc
{
    internal const int F_DUPFD = 0;
    internal const int F_DUPFD_CLOEXEC = 1030;
    internal const int F_GETFL = 3;
    internal const int F_SETFL = 4;
    internal const int F_OFD_GETLK = 36;
    internal const int F_OFD_SETLK = 37;
    internal const short F_RDLCK = 0;
    internal const short F_WRLCK = 1;
    internal const short F_UNLCK = 2;
    internal const int F_ADD_SEALS = 1033;
    internal const int F_GET_SEALS = 1034;
    internal const int O_RDONLY = 0;
    internal const int O_RDWR = 2;
    internal const int O_CREAT = 0x40;
    internal const int O_ACCMODE = 3;
    internal const int O_NONBLOCK = 0x800;
    internal const int O_CLOEXEC = 0x80000;
    // The one open flag that the architectures disagree on.
    internal static readonly int O_DIRECT = RuntimeInformation.ProcessArchitecture == Architecture.X64 ? 0x4000 : 0x10000;
    internal const int AT_FDCWD = -100;
    internal const int AT_SYMLINK_NOFOLLOW = 0x100;
    internal const int AT_EMPTY_PATH = 0x1000;
    internal const uint STATX_BASIC_STATS = 0x7ff;
    internal const uint STATX_BTIME = 0x800;
    internal const uint STATX_DIOALIGN = 0x2000;
    internal const long TMPFS_MAGIC = 0x01021994;
    internal const long RAMFS_MAGIC = 0x858458f6;
    internal const uint MFD_CLOEXEC = 1;
    internal const uint MFD_ALLOW_SEALING = 2;
    internal const int EFD_NONBLOCK = 0x800;
    internal const int EFD_CLOEXEC = 0x80000;
    internal const int PROT_READ = 1;
    internal const int PROT_WRITE = 2;
    internal const int PROT_EXEC = 4;
    internal const int MAP_SHARED = 1;
    internal const int MAP_PRIVATE = 2;
    internal const int MAP_ANONYMOUS = 0x20;
    internal const int MAP_NORESERVE = 0x4000;
    internal const int EPOLL_CLOEXEC = 0x80000;
    internal const int EPOLL_CTL_ADD = 1;
    internal const int EPOLL_CTL_DEL = 2;
    internal const uint EPOLLIN = 1;
    internal const uint EPOLLET = 1u << 31;
    internal const uint EPOLLEXCLUSIVE = 1u << 28;
    internal const short POLLIN = 1;
    internal const short POLLOUT = 4;
    internal const short POLLERR = 8;
    internal const short POLLHUP = 16;
    internal const int AF_UNIX = 1;
    internal const int AF_INET = 2;
    internal const int AF_INET6 = 10;
    internal const int SOCK_STREAM = 1;
    internal const int SOCK_NONBLOCK = 0x800;
    internal const int SOCK_CLOEXEC = 0x80000;
    internal const int SHUT_RDWR = 2;
    internal const int SOL_SOCKET = 1;
    internal const int SO_REUSEADDR = 2;
    internal const int SO_KEEPALIVE = 9;
    internal const int IPPROTO_TCP = 6;
    internal const int TCP_NODELAY = 1;
    internal const int TCP_KEEPIDLE = 4;
    internal const int TCP_KEEPINTVL = 5;
    internal const int TCP_USER_TIMEOUT = 18;
    internal const int SEEK_DATA = 3;
    internal const int SEEK_HOLE = 4;
    internal const int SO_PEERCRED = 17;
    internal const int SO_PEERPIDFD = 77;
    internal const int SCM_RIGHTS = 1;
    internal const int MSG_CTRUNC = 8;
    internal const int MSG_DONTWAIT = 0x40;
    internal const int MSG_NOSIGNAL = 0x4000;
    internal const int MSG_CMSG_CLOEXEC = 0x40000000;
    internal const int LOCK_EX = 2;
    internal const int LOCK_SH = 1;
    internal const int LOCK_NB = 4;
    internal const int LOCK_UN = 8;
    internal const int RWF_DSYNC = 2;
    internal const int RWF_NOWAIT = 8;
    internal const int RLIMIT_NOFILE = 7;
    internal const int FIONREAD = 0x541B;
    internal const nint SIG_IGN = 1;
    internal const int SIGXFSZ = 25;
    internal const int SIGBUS = 7;
    internal const int SA_SIGINFO = 4;
    internal const int FUTEX_WAIT_PRIVATE = 128;
    // Of x86-64, as the code that uses it.
    internal const int SYS_futex = 202;
    internal const int SYS_pidfd_open = 434;
    internal const int SYS_epoll_pwait2 = 441;
    // The same on every architecture.
    internal const int SYS_io_uring_setup = 425;
    internal const int SYS_io_uring_enter = 426;
    internal const int SYS_io_uring_register = 427;

    /// <summary>The errno that the last call on this thread left.</summary>
    internal static Errno LastError => (Errno)Marshal.GetLastPInvokeError();

    /// <summary>How many descriptors the process may have (the soft limit, which the runtime raises to the hard one when it starts).</summary>
    internal static int GetDescriptorLimit()
    {
        var limits = stackalloc ulong[2];
        // SAFETY: struct rlimit is the soft and the hard limit, of 64 bits each.
        return getrlimit(RLIMIT_NOFILE, limits) == 0 ? (int)Math.Min(limits[0], int.MaxValue) : 1024;
    }

    [LibraryImport("libc")]
    internal static partial int close(int fd);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fcntl(FileDescriptor fd, int command, nint argument);

    [LibraryImport("libc", EntryPoint = "fcntl")]
    internal static partial int fcntl_number(int fd, int command, nint argument);

    [LibraryImport("libc")]
    internal static partial int getrlimit(int resource, ulong* limits);

    [LibraryImport("libc")]
    internal static partial nint signal(int number, nint handler);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int open(string path, int flags, int mode);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int unlink(string path);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int execvpe(string file, nint* arguments, nint* environment);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int mount(string source, string target, string? type, nuint flags, string? data);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int umount2(string target, int flags);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int chmod(string path, uint mode);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int flock(FileDescriptor fd, int operation);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int ftruncate(FileDescriptor fd, long length);

    [LibraryImport("libc", SetLastError = true, EntryPoint = "statx")]
    internal static partial int statx_fd(FileDescriptor fd, byte* path, int flags, uint mask, StatxBuffer* buffer);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int statx(int directory, string path, int flags, uint mask, StatxBuffer* buffer);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint readlink(byte* path, byte* buffer, nuint size);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int memfd_create(string name, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint mmap(nint address, nuint length, int protection, int flags, FileDescriptor fd, long offset);

    [LibraryImport("libc", EntryPoint = "mmap")]
    internal static partial nint mmap_anonymous(nint address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc")]
    internal static partial int mprotect(nint address, nuint length, int protection);

    [LibraryImport("libc")]
    internal static partial int sigaction(int signal, SignalAction* action, SignalAction* old);

    [LibraryImport("libc", EntryPoint = "syscall")]
    internal static partial nint futex(nint number, uint* word, nint operation, nint value, void* timeout);

    [LibraryImport("libc")]
    internal static partial int munmap(nint address, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int eventfd(uint initial, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint read(FileDescriptor fd, void* buffer, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint write(FileDescriptor fd, void* buffer, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int ioctl(FileDescriptor fd, nuint request, void* argument);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int tcgetattr(int fd, void* termios);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int tcsetattr(int fd, int actions, void* termios);

    [LibraryImport("libc")]
    internal static partial void cfmakeraw(void* termios);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint preadv2(FileDescriptor fd, IoVector* vectors, int count, long offset, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint pwritev2(FileDescriptor fd, IoVector* vectors, int count, long offset, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fdatasync(FileDescriptor fd);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fallocate(FileDescriptor fd, int mode, long offset, long length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fstatfs(FileDescriptor fd, void* buffer);

    [LibraryImport("libc", SetLastError = true, EntryPoint = "syscall")]
    internal static partial nint io_uring_setup(nint number, nint entries, void* parameters);

    // With the number of the descriptor, which the ring holds open: the call is made for every batch.
    [LibraryImport("libc", SetLastError = true, EntryPoint = "syscall")]
    internal static partial nint io_uring_enter(nint number, nint ring, nint submit, nint complete, nint flags, void* signals, nint size);

    [LibraryImport("libc", SetLastError = true, EntryPoint = "syscall")]
    internal static partial nint io_uring_register(nint number, nint ring, nint operation, void* argument, nint count);

    // For calls that the C library has no function for.
    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint syscall(nint number, nint first, nint second, void* third, void* fourth, void* fifth);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int epoll_create1(int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int epoll_ctl(FileDescriptor epoll, int operation, FileDescriptor fd, void* @event);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int epoll_wait(FileDescriptor epoll, void* events, int count, int timeout);

    [LibraryImport("libc", SetLastError = true, EntryPoint = "syscall")]
    internal static partial nint epoll_pwait2(nint number, FileDescriptor epoll, void* events, nint count, long* timeout, void* signals, nint size);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int poll(PollEntry* entries, nuint count, int timeout);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int socket(int family, int type, int protocol);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int socketpair(int family, int type, int protocol, int* pair);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int getsockopt(FileDescriptor socket, int level, int name, void* value, uint* length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int setsockopt(FileDescriptor socket, int level, int name, void* value, uint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int getsockname(FileDescriptor socket, void* address, uint* length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial long lseek(FileDescriptor fd, long offset, int whence);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int bind(FileDescriptor fd, void* address, uint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int listen(FileDescriptor fd, int backlog);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int accept4(FileDescriptor fd, void* address, uint* length, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int connect(FileDescriptor fd, void* address, uint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint recvmsg(FileDescriptor fd, MessageHeader* message, int flags);

    // For calls that are made for every message: without the errno, which is asked for by a second call when there is one.
    [LibraryImport("libc", EntryPoint = "recvmsg")]
    internal static partial nint recvmsg_raw(int fd, MessageHeader* message, int flags);

    [LibraryImport("libc", EntryPoint = "send")]
    internal static partial nint send_raw(int fd, void* buffer, nuint count, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint send(FileDescriptor fd, void* buffer, nuint count, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int shutdown(FileDescriptor fd, int how);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint sendmsg(FileDescriptor fd, MessageHeader* message, int flags);
}
