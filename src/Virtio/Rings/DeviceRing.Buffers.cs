using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

// What becomes of a buffer whose descriptor was read, in whatever format: its memory is found, held, and let go of.
public abstract partial class DeviceRing
{
    // Runs are cut at 1 GiB, so that each is a span.
    private const uint MaxRun = 1 << 30;
    private static readonly Fault OutsideMemory = new(Errno.EFAULT, "a buffer lies outside guest memory");

    private readonly IndirectTable _indirect = new();
    private protected DmaPort? _dma;
    private protected FarMemory? _far;
    private protected bool _eventIndex;
    private protected bool _isHeldUp;
    // A buffer or a table was met that is reached by messages.
    private volatile bool _hasMetFar;
    // Since the stay began.
    private protected int _taken;
    // With VIRTIO_F_IN_ORDER: what was taken, and what of it is held back.
    private protected UsedOrder? _order;
    private bool _indirectAllowed;
    private DmaHint _hint;
    // Bytes of the copies of all chains that are with the device.
    private uint _copied;

    // One chain more at most would come on top: what a driver asks for by many buffers is not to fill this process either.
    private protected bool IsLaden => _copied >= DescriptorChain.MostCopied;

    private protected void End()
    {
        _hasMetFar = false;
        _dma = null;
        _far = null;
        _isUnseen = false;
        _order = null;
        Size = 0;
    }

    /// <summary>Begins a stay; EFAULT when the port reaches nothing.</summary>
    private protected bool TryEnter(out DmaSection section, out Fault fault)
    {
        var isIn = _dma!.TryEnter(out section);
        fault = isIn ? Fault.None : OutsideMemory;
        return isIn;
    }

    /// <summary>A chain whose descriptors were walked is the device's.</summary>
    private protected bool TryKeep(DescriptorChain chain, int slots, out Fault fault)
    {
        if (_order is { } order && !order.TryTake(chain))
        {
            fault = new Fault(Errno.EPROTO, "more buffers were made available than the queue has descriptors");
            return false;
        }

        chain.Slots = slots;
        chain.Room = chain.WritableLength;
        _copied += chain.Copied;
        fault = Fault.None;
        return true;
    }

    /// <summary>A chain is as if it had not been taken.</summary>
    private protected void Forget(DescriptorChain chain)
    {
        _order?.PutBack();
        _copied -= chain.Copied;
        chain.LetGo();
    }

    /// <summary>What the device wrote goes out, and the chain's memory is not used any more.</summary>
    private protected void Release(DescriptorChain chain, uint written)
    {
        _copied -= chain.Copied;
        if (chain.Copied != 0)
            chain.WriteBack(_far!, written);
        // Marked before it is let go: who unmaps it reads the log after that.
        if (_dma!.IsLogged)
            chain.MarkWritten(_dma, written);
        chain.LetGo();
    }

    /// <summary>Copies the table that a descriptor with VIRTQ_DESC_F_INDIRECT names.</summary>
    /// <param name="table">Its place and length.</param>
    /// <param name="flags">Its flags.</param>
    /// <param name="inIndirect">Whether it stands in a table itself.</param>
    /// <param name="section">The stay; a new one when the table came by messages.</param>
    /// <param name="entries">The copy.</param>
    /// <param name="fault">EPROTO: what is wrong with it; none when it is taken on another thread.</param>
    private protected bool TryEnterIndirect(
        IovaRange table, ushort flags, bool inIndirect, ref DmaSection section, out IndirectTable entries, out Fault fault)
    {
        entries = _indirect;
        fault = Fault.None;
        if (IndirectTable.WhatIsWrong((uint)table.Size, flags, _indirectAllowed, inIndirect) is { } message)
        {
            fault = new Fault(Errno.EPROTO, message);
            return false;
        }

        var error = _indirect.Copy(table, section, ref _hint, out var at);
        if (error == Errno.None)
            return true;
        if (IsToBeHeldUp(error))
            return false;
        section.Leave();
        section = default;
        _hasMetFar |= error == Errno.EOPNOTSUPP;
        // By messages only where they were found to be due: a peer who maps memory at this moment where there was none holds up no thread of others.
        if (error != Errno.EOPNOTSUPP)
            _dma!.ReportFault(new Iova(at), DmaAccess.Read);
        else if (_far!.TryRead(table.Start, _indirect.Bytes(table), isRing: false))
            return TryEnter(out section, out fault);
        fault = new Fault(Errno.EPROTO, "an indirect table lies outside guest memory");
        return false;
    }

    /// <summary>Adds what one descriptor names to its chain.</summary>
    /// <param name="chain">The chain.</param>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="writable">Whether the device writes it.</param>
    /// <param name="section">The stay; a new one when the buffer is reached by messages.</param>
    /// <param name="fault">EPROTO, E2BIG, EFAULT: what is wrong with it; none when it is taken on another thread.</param>
    private protected unsafe bool TryAddBuffer(DescriptorChain chain, ulong address, uint length, bool writable, ref DmaSection section, out Fault fault)
    {
        if (!writable && chain.WritableLength != 0)
        {
            fault = new Fault(Errno.EPROTO, "a readable descriptor follows a writable one");
            return false;
        }

        if (length == 0 || (ulong)chain.ReadableLength + chain.WritableLength + length > uint.MaxValue)
        {
            fault = new Fault(Errno.EPROTO, "a descriptor has no length, or a chain has more than 4 GiB");
            return false;
        }

        var access = writable ? DmaAccess.Write : DmaAccess.Read;
        // The end of the address space is the end.
        var end = address + length;
        if (end < address && end != 0)
            return TryAddFar(chain, address, length, access, Errno.EFAULT, ref section, out fault);
        fault = Fault.None;
        while (length != 0)
        {
            var error = section.Translate(new Iova(address), Math.Min(length, MaxRun), access, ref _hint, out var run);
            if (error == Errno.None)
            {
                if (!chain.TryAdd(run, address, writable))
                {
                    fault = new Fault(Errno.E2BIG, "a chain has more segments than the device takes");
                    return false;
                }

                chain.Use.Add(new Iova(address), (ulong)run.Length);
                // The other side wrote there last, most likely on another processor: while the rest of the batch is looked up it comes over.
                // SAFETY: a prefetch reads nothing and faults nowhere.
                if (Sse.IsSupported)
                    Sse.Prefetch0((void*)run.Address);
            }
            else if (!TryAddFar(chain, address, (uint)run.Length, access, error, ref section, out fault))
            {
                return false;
            }

            address += run.Length;
            length -= (uint)run.Length;
        }

        return true;
    }

    // A peer answers when it likes: not on a thread that works for others too, and not while others that were taken wait for it.
    private bool IsToBeHeldUp(Errno error)
    {
        _isHeldUp = error == Errno.EOPNOTSUPP && PollThread.IsSharedCurrent;
        return _isHeldUp || (error == Errno.EOPNOTSUPP && _taken > 0);
    }

    // A buffer that is reached by messages, or not at all: the stay ends for it.
    private bool TryAddFar(DescriptorChain chain, ulong address, uint length, DmaAccess access, Errno error, ref DmaSection section, out Fault fault)
    {
        fault = Fault.None;
        if (IsToBeHeldUp(error))
            return false;
        section.Leave();
        section = default;
        _hasMetFar |= error == Errno.EOPNOTSUPP;
        if (error == Errno.EOPNOTSUPP)
            return chain.TryAddCopy(_far!, address, length, access == DmaAccess.Write, out fault) && TryEnter(out section, out fault);
        _dma!.ReportFault(new Iova(address), access);
        fault = OutsideMemory;
        return false;
    }
}
