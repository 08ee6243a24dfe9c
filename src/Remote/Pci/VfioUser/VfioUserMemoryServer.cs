using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>The client's answers to DMA_READ and DMA_WRITE on one socket, out of what is mapped. Used by whoever reads that socket.</summary>
/// <param name="memory">What is mapped; null when nothing is served.</param>
/// <param name="maxTransfer">The most bytes in one request.</param>
internal sealed class VfioUserMemoryServer(IoAccess? memory, int maxTransfer)
{
    private byte[] _reply = new byte[4096];

    /// <summary>Where the answers go; set once, before the first request.</summary>
    internal VfioUserChannel Channel { get; set; } = null!;

    internal bool TryHandle(in VfioUserMessage message, out Fault fault)
    {
        // A server that asks for nonsense is told so; the device goes on.
        fault = Fault.None;
        var size = 0;
        var error = message.Type == TypeCommand ? Answer(message, out size) : Errno.EINVAL;
        if (!message.WantsReply)
            return true;
        if (error != Errno.None)
            size = HeaderSize;
        VfioUserMessage.WriteHeader(_reply, message.Id, message.Command, size, error == Errno.None ? TypeReply : TypeReply | ErrorFlag, error);
        if (!Channel.TryAnswer(_reply.AsSpan(0, size)))
            fault = Channel.End;
        return fault == Fault.None;
    }

    private Errno Answer(in VfioUserMessage message, out int size)
    {
        const int Head = HeaderSize + DmaAccessSize;
        size = Head;
        if (message.Command is not (VfioUserCommand.DMA_READ or VfioUserCommand.DMA_WRITE) || message.Payload.Length < DmaAccessSize)
            return Errno.EINVAL;
        var access = message.Read<VfioUserDmaAccess>();
        var address = new Iova(access.Address);
        var count = access.Count;
        if (count > (ulong)maxTransfer)
            return Errno.E2BIG;
        if (memory is null)
            return Errno.EPERM;
        var isRead = message.Command == VfioUserCommand.DMA_READ;
        if (message.Payload.Length != DmaAccessSize + (isRead ? 0 : (int)count))
            return Errno.EINVAL;
        if (isRead)
            size += (int)count;
        if (_reply.Length < size)
            _reply = new byte[size];
        MemoryMarshal.Write(_reply.AsSpan(HeaderSize), in access);
        var done = isRead
            ? memory.TryRead(address, _reply.AsSpan(Head, (int)count), out var fault)
            : memory.TryWrite(address, message.Payload[DmaAccessSize..], out fault);
        return done ? Errno.None : fault.Errno;
    }
}
