using System.Runtime.InteropServices;
using System.Text;

namespace Virtbus.Platform;

/// <summary>An open TAP interface of the host: each read gives one Ethernet frame, each write sends one (Linux: if_tun.h).</summary>
public sealed class TapFile : IDisposable
{
    private const nuint TUNSETIFF = 0x400454CA;
    private const short IFF_TAP = 0x0002;
    private const short IFF_NO_PI = 0x1000;
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

    /// <summary>Opens a TAP interface, making it when it does not exist.</summary>
    /// <param name="name">1 to 15 bytes.</param>
    /// <exception cref="VirtbusException">EINVAL: the name; EPERM: no privilege; ENOENT: the host has no TUN driver; EBUSY: another program has it.</exception>
    public static unsafe TapFile Open(string name)
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
        request.Flags = IFF_TAP | IFF_NO_PI;
        bytes.CopyTo(new Span<byte>(request.Name, NameSize));
        // SAFETY: the request is a local of the 40 bytes that the kernel copies, and outlives the call.
        if (Libc.ioctl(file, TUNSETIFF, &request) < 0)
        {
            var error = Libc.LastError;
            file.Dispose();
            throw Failed(name, error);
        }
        return new TapFile(file, name);
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

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    private static VirtbusException Failed(string name, Errno error) => new(error, error switch
    {
        Errno.EPERM or Errno.EACCES => $"TAP interface '{name}' needs the privilege CAP_NET_ADMIN. Run as root, or leave 'tap' out.",
        Errno.ENOENT or Errno.ENODEV => $"TAP interface '{name}' can't be made: the host has no TUN driver. Load the module tun, or leave 'tap' out.",
        Errno.EBUSY => $"TAP interface '{name}' is in use by another program. Choose another name.",
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
