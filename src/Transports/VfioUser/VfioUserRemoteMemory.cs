using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// A client's memory that cannot be mapped: its bytes come and go by DMA_READ and DMA_WRITE. Safe from any thread; what is larger than the
/// client takes at once goes in pieces, one after the other.
/// </summary>
/// <param name="channel">Where the requests go.</param>
/// <param name="maxTransfer">The most bytes in one request.</param>
/// <param name="timeout">How long the client may take for one, in milliseconds, the sending included.</param>
/// <param name="answerFirst">Called before each request; sends the answer that the client waits for, if there is one that can be sent.</param>
internal sealed class VfioUserRemoteMemory(VfioUserChannel channel, int maxTransfer, int timeout, Action answerFirst) : IRemoteMemory
{
    private readonly Lock _lock = new();
    private bool _blocked;
    private ulong _blockStart;
    private ulong _blockLast;

    public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
    {
        fault = Fault.None;
        while (!destination.IsEmpty)
        {
            var count = Math.Min(destination.Length, maxTransfer);
            if (!TryMove(VfioUserCommand.DMA_READ, address, destination[..count], default, out fault))
                return false;
            destination = destination[count..];
            address = new Iova(address.Value + (ulong)count);
        }

        return true;
    }

    public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
    {
        fault = Fault.None;
        while (!source.IsEmpty)
        {
            var count = Math.Min(source.Length, maxTransfer);
            if (!TryMove(VfioUserCommand.DMA_WRITE, address, default, source[..count], out fault))
                return false;
            source = source[count..];
            address = new Iova(address.Value + (ulong)count);
        }

        return true;
    }

    /// <summary>
    /// Fails the accesses to a range that are under way and those that come, until <see cref="Unblock"/>. For requests that end when no
    /// access is under way any more: a client that waits for them (QEMU, under its big lock) answers none meanwhile.
    /// </summary>
    internal void Block(ulong start, ulong last)
    {
        lock (_lock)
        {
            _blocked = true;
            _blockStart = start;
            _blockLast = last;
            channel.GiveUp(start, last, new Fault(Errno.EAGAIN, "the memory is being unmapped"));
        }
    }

    internal void Unblock()
    {
        lock (_lock)
            _blocked = false;
    }

    private bool TryMove(VfioUserCommand command, Iova address, Span<byte> destination, ReadOnlySpan<byte> source, out Fault fault)
    {
        var count = destination.Length + source.Length;
        var call = channel.Rent();
        call.Address = address.Value;
        call.Length = (ulong)count;
        var begun = TryBegin(call, command, out fault) && TrySend(call, command, source, out fault) && channel.TryWait(call, timeout, out fault);
        if (begun)
            begun = TryTake(call, address, destination, (ulong)count, out fault);
        call.Length = 0;
        channel.Return(call);
        return begun;
    }

    private bool TryBegin(VfioUserCall call, VfioUserCommand command, out Fault fault)
    {
        lock (_lock)
        {
            if (_blocked && call.Address <= _blockLast && _blockStart <= call.Address + (call.Length - 1))
                return VfioUserProtocol.Refuse(Errno.EAGAIN, "the memory is being unmapped", out fault);
            return channel.TryBegin(call, command, 1, out fault);
        }
    }

    private bool TrySend(VfioUserCall call, VfioUserCommand command, ReadOnlySpan<byte> source, out Fault fault)
    {
        const int Head = VfioUserProtocol.HeaderSize + VfioUserProtocol.DmaAccessSize;
        var request = call.Request(Head + source.Length);
        VfioUserMessage.WriteHeader(request, call.FirstId, command, request.Length, VfioUserProtocol.TypeCommand);
        MemoryMarshal.Write(request[VfioUserProtocol.HeaderSize..], new VfioUserDmaAccess { Address = call.Address, Count = call.Length });
        source.CopyTo(request[Head..]);
        answerFirst();
        fault = channel.TrySend(request, default) ? Fault.None : channel.End;
        return fault == Fault.None;
    }

    private static bool TryTake(VfioUserCall call, Iova address, Span<byte> destination, ulong count, out Fault fault)
    {
        fault = Fault.None;
        var reply = call.Reply;
        // A reply to a write may leave out the upper half of its count, as the specification's table has it.
        var least = destination.IsEmpty ? VfioUserProtocol.DmaAccessSize - 4 : VfioUserProtocol.DmaAccessSize + destination.Length;
        if (reply.Length < least || MemoryMarshal.Read<VfioUserShortDmaAccess>(reply) is var said &&
            (said.Address != address.Value || said.Count != (uint)count))
            return VfioUserProtocol.Refuse(Errno.EPROTO, "the client's answer is not to what was asked", out fault);
        reply.Slice(VfioUserProtocol.DmaAccessSize - (destination.IsEmpty ? 4 : 0), destination.Length).CopyTo(destination);
        return true;
    }
}
