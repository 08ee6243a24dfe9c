using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Transports.VhostUser;

/// <summary>One message of the front end, with the descriptors that came with it. Fields are in host byte order, which is little-endian.</summary>
internal readonly ref struct VhostUserMessage
{
    private readonly List<FileDescriptor> _descriptors;

    internal VhostUserMessage(ReadOnlySpan<byte> header, ReadOnlySpan<byte> payload, List<FileDescriptor> descriptors)
    {
        Request = (VhostUserRequest)BinaryPrimitives.ReadUInt32LittleEndian(header);
        Flags = BinaryPrimitives.ReadUInt32LittleEndian(header[4..]);
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
    internal ulong Number => BinaryPrimitives.ReadUInt64LittleEndian(Payload);

    /// <summary>The first and second half of a vring state; the first is the ring's index.</summary>
    internal (uint Index, uint Value) State => (Word(0), Word(4));

    internal uint Word(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(Payload[offset..]);

    internal ulong Long(int offset) => BinaryPrimitives.ReadUInt64LittleEndian(Payload[offset..]);

    /// <summary>A memory region, wherever in the payload it stands.</summary>
    internal GuestRegion Region(int offset) =>
        new(new GuestAddress(Long(offset)), Long(offset + 8), new UserAddress(Long(offset + 16)), Long(offset + 24));

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
            VhostUserRequest.SET_VRING_ADDR => (size == 40, 0),
            VhostUserRequest.SET_MEM_TABLE =>
                (size >= 8 && (ulong)size == 8 + ((ulong)Word(0) * VhostUserProtocol.RegionSize), size >= 8 ? (int)Math.Min(Word(0), 64) : 0),
            VhostUserRequest.ADD_MEM_REG or VhostUserRequest.REM_MEM_REG => (size == 8 + VhostUserProtocol.RegionSize, 1),
            VhostUserRequest.SET_BACKEND_REQ_FD => (size == 0, 1),
            VhostUserRequest.GET_CONFIG or VhostUserRequest.SET_CONFIG =>
                (size >= VhostUserProtocol.ConfigHeaderSize && Word(4) <= VhostUserProtocol.MaxConfig &&
                    size == VhostUserProtocol.ConfigHeaderSize + (int)Word(4), 0),
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
}
