using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Wire.VhostUser;

/// <summary>One message of the front end, with the descriptors that came with it. Fields are in host byte order, which is little-endian.</summary>
internal readonly ref struct VhostUserMessage
{
    private const int MostRegions = 64;
    private readonly List<FileDescriptor> _descriptors;

    internal VhostUserMessage(VhostUserHeader header, ReadOnlySpan<byte> payload, List<FileDescriptor> descriptors)
    {
        Request = header.Request;
        Flags = header.Flags;
        Payload = payload;
        _descriptors = descriptors;
    }

    internal VhostUserRequest Request { get; }

    internal uint Flags { get; }

    internal bool NeedReply => (Flags & VhostUserProtocol.NeedReplyFlag) != 0;

    /// <summary>Whether the request has a reply of its own; it never gets an acknowledgement besides.</summary>
    internal bool HasReply => Request is VhostUserRequest.GET_FEATURES or VhostUserRequest.GET_PROTOCOL_FEATURES or
        VhostUserRequest.GET_QUEUE_NUM or VhostUserRequest.GET_MAX_MEM_SLOTS or VhostUserRequest.GET_STATUS or VhostUserRequest.GET_CONFIG or
        VhostUserRequest.GET_VRING_BASE;

    internal ReadOnlySpan<byte> Payload { get; }

    internal IReadOnlyList<FileDescriptor> Descriptors => _descriptors;

    /// <summary>The payload as one number.</summary>
    internal ulong Number => Read<ulong>();

    /// <summary>What the payload begins with, or what lies further on in it. There must be as much: the shape is checked before.</summary>
    internal T Read<T>(int at = 0)
        where T : unmanaged => MemoryMarshal.Read<T>(Payload[at..]);

    /// <summary>Takes the only descriptor, so that it is not closed with the message.</summary>
    internal FileDescriptor TakeDescriptor()
    {
        var descriptor = _descriptors[0];
        _descriptors.RemoveAt(0);
        return descriptor;
    }

    /// <summary>Puts a descriptor back that nobody had a use for: it is closed with the message.</summary>
    internal void ReturnDescriptor(FileDescriptor descriptor) => _descriptors.Add(descriptor);

    /// <summary>
    /// Whether payload size and number of descriptors are what the request has. Checked before anything is read from either.
    /// </summary>
    internal bool TryCheckShape(out Fault fault)
    {
        var size = Payload.Length;
        var (sizeFits, mostDescriptors) = Request switch
        {
            VhostUserRequest.GET_FEATURES or VhostUserRequest.SET_OWNER or VhostUserRequest.RESET_OWNER or
                VhostUserRequest.GET_PROTOCOL_FEATURES or VhostUserRequest.GET_QUEUE_NUM or VhostUserRequest.RESET_DEVICE or
                VhostUserRequest.GET_MAX_MEM_SLOTS or VhostUserRequest.GET_STATUS => (size == 0, 0),
            VhostUserRequest.SET_FEATURES or VhostUserRequest.SET_PROTOCOL_FEATURES or VhostUserRequest.SET_STATUS or
                VhostUserRequest.SET_VRING_NUM or VhostUserRequest.SET_VRING_BASE or VhostUserRequest.GET_VRING_BASE or
                VhostUserRequest.SET_VRING_ENABLE => (size == 8, 0),
            VhostUserRequest.SET_VRING_KICK or VhostUserRequest.SET_VRING_CALL or VhostUserRequest.SET_VRING_ERR =>
                (size == 8, size == 8 && (Number & VhostUserProtocol.NoDescriptorFlag) != 0 ? 0 : 1),
            VhostUserRequest.SET_VRING_ADDR => (size == VhostUserProtocol.RingAddressSize, 0),
            VhostUserRequest.SET_MEM_TABLE =>
                (IsTable(size), size >= VhostUserProtocol.MemoryTableSize ? (int)Math.Min(Read<VhostUserMemoryTable>().Count, MostRegions) : 0),
            VhostUserRequest.ADD_MEM_REG or VhostUserRequest.REM_MEM_REG => (size == VhostUserProtocol.SingleRegionSize, 1),
            VhostUserRequest.SET_BACKEND_REQ_FD => (size == 0, 1),
            VhostUserRequest.GET_CONFIG or VhostUserRequest.SET_CONFIG =>
                (IsConfig(size), 0),
            _ => (true, int.MaxValue),
        };
        // What is removed may be named by its descriptor too; it is closed with the message.
        var leastDescriptors = Request == VhostUserRequest.REM_MEM_REG ? 0 : mostDescriptors;
        var count = _descriptors.Count;
        fault = (sizeFits, count) switch
        {
            (false, _) => new Fault(Errno.EBADMSG, "the payload has a size that the request does not have"),
            _ when mostDescriptors == int.MaxValue => new Fault(Errno.EOPNOTSUPP, "the request is not known"),
            _ when count < leastDescriptors => new Fault(Errno.EBADMSG, "a descriptor is missing"),
            _ when count > mostDescriptors => new Fault(Errno.EBADMSG, "more descriptors came than the request has"),
            _ => Fault.None,
        };
        return fault == Fault.None;
    }

    private bool IsTable(int size) => size >= VhostUserProtocol.MemoryTableSize &&
        (ulong)size == VhostUserProtocol.MemoryTableSize + ((ulong)Read<VhostUserMemoryTable>().Count * VhostUserProtocol.RegionSize);

    private bool IsConfig(int size) => size >= VhostUserProtocol.ConfigHeaderSize &&
        Read<VhostUserConfig>().Size is <= VhostUserProtocol.MaxConfig and var bytes && size == VhostUserProtocol.ConfigHeaderSize + (int)bytes;
}
