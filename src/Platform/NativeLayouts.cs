using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary><c>struct pollfd</c> (poll.h).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PollEntry
{
    internal int Fd;
    internal short Events;
    internal short Returned;
}

/// <summary><c>struct msghdr</c> (sys/socket.h).</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct MessageHeader
{
    internal void* Name;
    internal uint NameLength;
    internal IoVector* Vectors;
    internal nuint VectorCount;
    internal void* Control;
    internal nuint ControlLength;
    internal int Flags;
}

/// <summary><c>struct cmsghdr</c> (sys/socket.h). The data follows, aligned to the size of a pointer.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ControlHeader
{
    internal nuint Length;
    internal int Level;
    internal int Type;
}

/// <summary><c>struct sockaddr_un</c> (sys/un.h).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct UnixAddress
{
    internal const int PathCapacity = 108;

    internal ushort Family;
    internal PathBytes Path;

    [InlineArray(PathCapacity)]
    internal struct PathBytes
    {
        private byte _first;
    }
}

/// <summary><c>struct flock</c> (fcntl.h) of 64-bit hosts; the process id stays 0 for the locks of an open file.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FileRangeLock
{
    internal short Kind;
    internal short Whence;
    internal long Start;
    internal long Length;
    internal int Process;
}

/// <summary><c>struct sigaction</c> (signal.h).</summary>
[StructLayout(LayoutKind.Explicit, Size = 152)]
internal struct SignalAction
{
    [FieldOffset(0)] internal nint Handler;
    [FieldOffset(136)] internal int Flags;
}

/// <summary>
/// <c>struct statx</c> (linux/stat.h), the part that is read. Taken in place of <c>struct stat</c> because its layout is the same on every
/// architecture.
/// </summary>
[StructLayout(LayoutKind.Explicit, Size = 256)]
internal struct StatxBuffer
{
    [FieldOffset(0)] internal uint Mask;
    [FieldOffset(4)] internal uint BlockSize;
    [FieldOffset(20)] internal uint Owner;
    [FieldOffset(24)] internal uint Group;
    [FieldOffset(28)] internal ushort Mode;
    [FieldOffset(32)] internal ulong Inode;
    [FieldOffset(40)] internal ulong Size;
    [FieldOffset(80)] internal long BirthSeconds;
    [FieldOffset(88)] internal uint BirthNanoseconds;
    [FieldOffset(136)] internal uint DeviceMajor;
    [FieldOffset(140)] internal uint DeviceMinor;
    [FieldOffset(152)] internal uint DirectMemoryAlignment;
    [FieldOffset(156)] internal uint DirectOffsetAlignment;
}

/// <summary><c>struct iocb</c> (linux/aio_abi.h), on little-endian hosts.</summary>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal struct IoControlBlock
{
    [FieldOffset(16)] internal ushort Opcode;
    [FieldOffset(20)] internal uint Fd;
    [FieldOffset(56)] internal uint Flags;
    [FieldOffset(60)] internal uint Signal;
}

/// <summary>
/// The layout of <c>struct epoll_event</c>, which is packed on x86-64 and padded elsewhere (sys/epoll.h). Events are read and written
/// through these offsets because one C# struct cannot have both shapes.
/// </summary>
internal static class EpollLayout
{
    internal static readonly int DataOffset = RuntimeInformation.ProcessArchitecture == Architecture.X64 ? 4 : 8;
    internal static readonly int Size = DataOffset + 8;
}
