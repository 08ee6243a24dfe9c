using System.Buffers.Binary;
using Virtbus.Platform;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// One message of the peer, with the descriptors that came with it. It lies in the buffer that it was received in and is valid until the
/// next one is taken, which closes the descriptors that nobody took. Fields are in host byte order, which is little-endian.
/// </summary>
internal readonly ref struct VfioUserMessage
{
    private readonly ReadOnlySpan<byte> _payload;
    private readonly List<FileDescriptor>? _descriptors;

    internal VfioUserMessage(ReadOnlySpan<byte> bytes, List<FileDescriptor>? descriptors)
    {
        var first = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        var second = BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]);
        Id = (ushort)first;
        Command = (VfioUserCommand)(ushort)(first >> 16);
        Flags = (uint)second;
        ErrorNumber = (uint)(second >> 32);
        _payload = bytes[VfioUserProtocol.HeaderSize..];
        _descriptors = descriptors;
    }

    internal ushort Id { get; }

    internal VfioUserCommand Command { get; }

    internal uint Flags { get; }

    internal uint ErrorNumber { get; }

    internal uint Type => Flags & VfioUserProtocol.TypeMask;

    internal bool IsReply => Type == VfioUserProtocol.TypeReply;

    internal bool WantsReply => (Flags & VfioUserProtocol.NoReplyFlag) == 0;

    internal bool IsError => (Flags & VfioUserProtocol.ErrorFlag) != 0;

    internal ReadOnlySpan<byte> Payload => _payload;

    internal int DescriptorCount => _descriptors?.Count ?? 0;

    internal uint Word(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(_payload[offset..]);

    internal ulong Long(int offset) => BinaryPrimitives.ReadUInt64LittleEndian(_payload[offset..]);

    internal FileDescriptor Descriptor(int index) => _descriptors![index];

    /// <summary>Takes the first descriptor, so that it is not closed with the message.</summary>
    internal FileDescriptor TakeDescriptor()
    {
        var descriptor = _descriptors![0];
        _descriptors.RemoveAt(0);
        return descriptor;
    }

    /// <summary>Moves all descriptors to another list, so that they are not closed with the message.</summary>
    internal void TakeDescriptors(List<FileDescriptor> list)
    {
        if (_descriptors is null)
            return;
        list.AddRange(_descriptors);
        _descriptors.Clear();
    }

    /// <summary>Puts a header where a message begins.</summary>
    internal static void WriteHeader(Span<byte> destination, ushort id, VfioUserCommand command, int size, uint flags, Errno error = Errno.None)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(destination, id | ((ulong)command << 16) | ((ulong)(uint)size << 32));
        BinaryPrimitives.WriteUInt64LittleEndian(destination[8..], flags | ((ulong)error << 32));
    }
}
