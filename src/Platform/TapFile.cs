using System.Runtime.InteropServices;
using System.Text;

namespace Virtbus.Platform;

/// <summary>
/// An open TAP interface of the host, or one of its queues: each read gives one Ethernet frame, each write sends one (Linux: if_tun.h). Reads and writes may
/// come from any threads.
/// </summary>
public sealed class TapFile : IDisposable
{
    /// <summary>Bytes of the header before a frame of a queue (<see cref="OpenQueue"/>): struct virtio_net_hdr_v1, in little endian.</summary>
    public const int HeaderSize = 12;

    private const nuint TUNSETIFF = 0x400454CA;
    private const nuint TUNSETOFFLOAD = 0x400454D0;
    private const nuint TUNSETVNETHDRSZ = 0x400454D8;
    private const nuint TUNSETVNETLE = 0x400454DC;
    private const short IFF_TAP = 0x0002;
    private const short IFF_NO_PI = 0x1000;
    private const short IFF_VNET_HDR = 0x4000;
    private const short IFF_MULTI_QUEUE = 0x0100;
    private const nuint TUN_F_CSUM = 0x01;
    private const nuint TUN_F_TSO4 = 0x02;
    private const nuint TUN_F_TSO6 = 0x04;
    private const nuint TUN_F_TSO_ECN = 0x08;
    private const nuint TUN_F_USO4 = 0x20;
    private const nuint TUN_F_USO6 = 0x40;
    private const int NameSize = 16;

    private readonly FileDescriptor _file;

    private TapFile(FileDescriptor file, string name)
    {
        _file = file;
        Name = name;
    }

    /// <summary>The interface's name on the host.</summary>
    public string Name { get; }

    /// <summary>The open file, to wait on for a frame. It belongs to this object.</summary>
    public FileDescriptor Descriptor => _file;

    /// <summary>Whether the host takes and gives several UDP datagrams in one frame by this queue; Linux does from 6.2 on.</summary>
    public bool JoinsDatagrams { get; private init; }

    /// <summary>Opens a TAP interface, making it when it does not exist.</summary>
    /// <param name="name">1 to 15 bytes.</param>
    /// <exception cref="VirtbusException">EINVAL: the name; EPERM: no privilege; ENOENT: the host has no TUN driver; EBUSY: another program has it.</exception>
    public static TapFile Open(string name) => new(OpenFile(name, IFF_TAP | IFF_NO_PI), name);

    /// <summary>
    /// Opens a queue of a TAP interface, making the interface when it does not exist. Each frame has a header of offload data before it, and comes and goes
    /// uncut and with an open checksum when its sender left it so.
    /// </summary>
    /// <param name="name">1 to 15 bytes.</param>
    /// <param name="isOneOfMany">Whether the interface has several queues, each opened by a call of this. All of them say the same.</param>
    /// <exception cref="VirtbusException">As <see cref="Open"/>; EINVAL too: it exists and is of the other kind; EBUSY or E2BIG: it has as many queues as it may.</exception>
    public static unsafe TapFile OpenQueue(string name, bool isOneOfMany)
    {
        const nuint offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        var file = OpenFile(name, (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (isOneOfMany ? IFF_MULTI_QUEUE : 0)));
        int size = HeaderSize;
        int isLittleEndian = 1;
        // SAFETY: each argument is a local of the size that its ioctl copies, and outlives the call; the last two are numbers.
        var isSet = Libc.ioctl(file, TUNSETVNETHDRSZ, &size) >= 0 && Libc.ioctl(file, TUNSETVNETLE, &isLittleEndian) >= 0;
        var joins = isSet && Libc.ioctl(file, TUNSETOFFLOAD, (void*)(offloads | TUN_F_USO4 | TUN_F_USO6)) >= 0;
        if (joins || (isSet && Libc.ioctl(file, TUNSETOFFLOAD, (void*)offloads) >= 0))
            return new TapFile(file, name) { JoinsDatagrams = joins };
        var error = Libc.LastError;
        file.Dispose();
        throw Failed(name, error);
    }

    /// <summary>Reads a frame.</summary>
    /// <param name="buffer">Where to; a longer frame is cut.</param>
    /// <returns>Its length; 0 when none waits or the interface is down.</returns>
    public unsafe int Read(Span<byte> buffer)
    {
        // SAFETY: the span is pinned for the call, and the kernel writes at most its length.
        fixed (byte* start = buffer)
            return (int)Math.Max(Libc.read(_file, start, (nuint)buffer.Length), 0);
    }

    /// <summary>Sends a frame to the host.</summary>
    /// <param name="frame">The frame.</param>
    /// <returns>False when the host did not take it: the interface is down or its queue is full.</returns>
    public unsafe bool Write(ReadOnlySpan<byte> frame)
    {
        // SAFETY: the span is pinned for the call, and the kernel reads its length.
        fixed (byte* start = frame)
            return Libc.write(_file, start, (nuint)frame.Length) == frame.Length;
    }

    /// <summary>Sends a frame to the host by a queue.</summary>
    /// <param name="header"><see cref="HeaderSize"/> bytes.</param>
    /// <param name="frame">The frame.</param>
    /// <returns>False when the host did not take it: the interface is down, its queue is full, or the header is nonsense.</returns>
    public unsafe bool Write(ReadOnlySpan<byte> header, ReadOnlySpan<byte> frame)
    {
        // SAFETY: both spans are pinned for the call, and the kernel reads their lengths.
        fixed (byte* first = header, second = frame)
        {
            var vectors = stackalloc IoVector[2] { new((nint)first, (nuint)header.Length), new((nint)second, (nuint)frame.Length) };
            return Libc.pwritev2(_file, vectors, 2, -1, 0) == header.Length + frame.Length;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    private static unsafe FileDescriptor OpenFile(string name, short flags)
    {
        ArgumentNullException.ThrowIfNull(name);
        var bytes = Encoding.UTF8.GetBytes(name);
        if (bytes.Length is 0 or >= NameSize || name.Contains('/'))
            throw new VirtbusException(Errno.EINVAL, $"TAP interface name '{name}' is not valid. Use 1 to {NameSize - 1} characters without '/'.");
        var fd = Libc.open("/dev/net/tun", Libc.O_RDWR | Libc.O_NONBLOCK | Libc.O_CLOEXEC, 0);
        if (fd < 0)
            throw Failed(name, Libc.LastError);
        var file = new FileDescriptor(fd);
        var request = default(InterfaceRequest);
        request.Flags = flags;
        bytes.CopyTo(new Span<byte>(request.Name, NameSize));
        // SAFETY: the request is a local of the 40 bytes that the kernel copies, and outlives the call.
        if (Libc.ioctl(file, TUNSETIFF, &request) >= 0)
            return file;
        var error = Libc.LastError;
        file.Dispose();
        throw Failed(name, error);
    }

    private static VirtbusException Failed(string name, Errno error) => new(error, error switch
    {
        Errno.EPERM or Errno.EACCES => $"TAP interface '{name}' needs the privilege CAP_NET_ADMIN. Run as root, or leave 'tap' out.",
        Errno.ENOENT or Errno.ENODEV => $"TAP interface '{name}' can't be made: the host has no TUN driver. Load the module tun, or leave 'tap' out.",
        Errno.EBUSY => $"TAP interface '{name}' is in use by another program. Choose another name.",
        Errno.EINVAL => $"TAP interface '{name}' is there with another number of queues than is asked for: with one, or with several (multi_queue). Ask for as many, or choose another name.",
        Errno.E2BIG => $"TAP interface '{name}' has as many queues as it may. Ask for fewer, or choose another name.",
        _ => $"TAP interface '{name}' can't be opened: {error}. Choose another name.",
    });

    // struct ifreq: a name and a union of 24 bytes, of which the flags are the first two.
    [StructLayout(LayoutKind.Sequential, Size = 40)]
    private unsafe struct InterfaceRequest
    {
        public fixed byte Name[NameSize];
        public short Flags;
    }
}
