using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

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
        var header = MemoryMarshal.Read<VfioUserHeader>(bytes);
        Id = header.Id;
        Command = header.Command;
        Flags = header.Flags;
        ErrorNumber = header.Error;
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

    /// <summary>The first number of the payload: of many commands, how many bytes the peer takes (argsz).</summary>
    internal uint ArgSize => MemoryMarshal.Read<uint>(_payload);

    /// <summary>What the payload begins with, or what lies further on in it. There must be as much: sizes are checked before.</summary>
    internal T Read<T>(int at = 0)
        where T : unmanaged => MemoryMarshal.Read<T>(_payload[at..]);

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

    /// <summary>Gives a message that is there already another id.</summary>
    internal static void WriteId(Span<byte> destination, ushort id) => MemoryMarshal.Write(destination, in id);

    /// <summary>Puts a header where a message begins.</summary>
    internal static void WriteHeader(Span<byte> destination, ushort id, VfioUserCommand command, int size, uint flags, Errno error = Errno.None)
    {
        var header = new VfioUserHeader { Id = id, Command = command, Size = (uint)size, Flags = flags, Error = (uint)error };
        MemoryMarshal.Write(destination, in header);
    }
}
