using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// The memory that a client lets the device reach: what it sends the file of is mapped, the rest comes and goes by messages. Used by the session's
/// thread.
/// </summary>
internal sealed class VfioUserClientMemory : IDisposable
{
    private readonly VfioUserSession _session;
    private readonly VfioUserServerOptions _options;
    private readonly MappingAccount _mappings;
    private VfioUserRemoteMemory? _remote;
    private bool _unsealedWarned;
    private bool _unsharedTold;
    private ulong _sharedBytes;
    private ulong _unsharedBytes;
    private bool _isLost;

    internal VfioUserClientMemory(VfioUserSession session, VfioUserServerOptions options, VfioOwner user)
    {
        _session = session;
        _options = options;
        _mappings = new MappingAccount(Lose, options.Mappings);
        Container = new VfioContainer(user, new IoAddressSpaceOptions { MaxMaps = options.MaxDmaMaps });
    }

    /// <summary>What the device is opened in.</summary>
    internal VfioContainer Container { get; }

    /// <summary>Whether some of it is reached by messages.</summary>
    internal bool IsRemote => _remote is not null;

    private IoAddressSpace Space => Container.Space;

    /// <summary>Closes the device, and lets go of the memory.</summary>
    public void Dispose()
    {
        // Nothing of the device's DMA is under way when this returns: what waits for the client was given up before.
        Container.Dispose();
        _mappings.Dispose();
    }

    internal bool TryReserve(out Fault fault) => _mappings.TryReserve(out fault);

    /// <summary>Fails the accesses by messages that are under way and those that come, until <see cref="Unblock"/>.</summary>
    internal void BlockAll() => _remote?.Block(0, ulong.MaxValue);

    internal void Unblock() => _remote?.Unblock();

    internal bool TryMap(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, DmaMapSize, out fault))
            return false;
        var map = message.Read<VfioUserDmaMap>();
        if ((map.Flags & ~(DmaReadFlag | DmaWriteFlag | DmaHintFlags)) != 0 || (map.Flags & (DmaReadFlag | DmaWriteFlag)) == 0)
            return Refuse(Errno.EINVAL, "the flags are unknown, or allow no access", out fault);
        if (message.DescriptorCount > 1)
            return Refuse(Errno.EINVAL, "more than one descriptor came", out fault);
        if (!TryCheckRange(map.Address, map.Size, out fault))
            return false;
        // The flags have the bits of DmaAccess.
        var access = (DmaAccess)(map.Flags & (DmaReadFlag | DmaWriteFlag));
        if (message.DescriptorCount == 0 && (map.Flags & DmaHintFlags) != 0)
            return Refuse(Errno.EINVAL, "the flags ask to map a file or to read and write it, but no descriptor came", out fault);
        if (message.DescriptorCount == 0)
        {
            return TryMapRemote(new IovaRange(new Iova(map.Address), map.Size), access, out fault) && Mapped(0, map.Size) &&
                _session.Answers.Echo(message, 0, out fault);
        }

        _session.NoteHeaders();
        var file = message.Descriptor(0);
        // An access beyond the end of a file that was cut is a signal that ends this process, where there is no guard, and this session
        // where there is one. A seal rules it out. Set before the file's size is looked at, so that nothing comes between.
        if (!file.TrySealShrink() && !_unsealedWarned && !Mapping.IsGuardSupported)
        {
            _unsealedWarned = true;
            _session.SayUnsealed();
        }

        if (!HostMemory.TryMap(_mappings, file, map.Offset, map.Size, access, out var memory, out fault))
            return false;
        // The space holds a reference of its own from here on.
        using (memory)
        {
            return Space.TryMap(new Iova(map.Address), map.Size, memory!, 0, access, out fault) && Mapped(map.Size, 0) &&
                _session.Answers.Echo(message, 0, out fault);
        }
    }

    internal bool TryUnmap(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, DmaUnmapSize, out fault))
            return false;
        var unmap = message.Read<VfioUserDmaUnmap>();
        if (unmap.Flags == UnmapAllFlag)
        {
            if (unmap.Address != 0 || unmap.Size != 0)
                return Refuse(Errno.EINVAL, "all is to be unmapped, but a range is named", out fault);
            return TryUnmapAll(out fault) && _session.Answers.Echo(message, DmaUnmapSize, out fault);
        }

        if ((unmap.Flags & ~UnmapDirtyBitmapFlag) != 0)
            return Refuse(Errno.EINVAL, "the flags are unknown, or do not go together", out fault);
        if (!TryCheckRange(unmap.Address, unmap.Size, out fault))
            return false;
        var range = new IovaRange(new Iova(unmap.Address), unmap.Size);
        if (unmap.Flags != 0)
            return TryUnmapDirty(message, range, out fault);
        return TryUnmap(range, out fault) && _session.Answers.Echo(message, DmaUnmapSize, out fault);
    }

    private static bool TryCheckRange(ulong start, ulong size, out Fault fault)
    {
        fault = Fault.None;
        if (size == 0 || start % PageSize != 0 || size % PageSize != 0)
            return Refuse(Errno.EINVAL, "the range is empty or not of whole pages", out fault);
        return size - 1 <= ulong.MaxValue - start || Refuse(Errno.EINVAL, "the range wraps around the end of the address space", out fault);
    }

    // On a thread of the guard, after the device met zeros in place of the memory: what it does from here on is of no use to anybody.
    private void Lose()
    {
        // One word for all its maps.
        if (!Interlocked.Exchange(ref _isLost, true))
            _session.LoseMemory();
    }

    // A machine has pieces that no VMM shares, such as its firmware: the word is for those whose memory as a whole is none that can be mapped.
    private bool Mapped(ulong shared, ulong unshared)
    {
        _session.Peer.Maps = Space.Count;
        _sharedBytes = unchecked(_sharedBytes + shared);
        _unsharedBytes = unchecked(_unsharedBytes + unshared);
        if (_unsharedTold || _unsharedBytes <= _sharedBytes)
            return true;
        _unsharedTold = true;
        _session.SayUnshared();
        return true;
    }

    private bool TryMapRemote(IovaRange range, DmaAccess access, out Fault fault)
    {
        if (_remote is not null)
            return Space.TryMap(range, _remote, access, out fault);
        var remote = _session.MakeRemoteMemory();
        if (!Space.TryMap(range, remote, access, out fault))
            return false;
        _remote = remote;
        return true;
    }

    private bool TryUnmap(IovaRange range, out Fault fault)
    {
        // Accesses that are under way are given up, so not for an unmap that is refused.
        if (!Space.CanUnmap(range, out fault))
            return false;
        _remote?.Block(range.Start.Value, range.Last);
        var unmapped = Space.TryUnmap(range, out _, out fault);
        _remote?.Unblock();
        _session.Peer.Maps = Space.Count;
        return unmapped;
    }

    private bool TryUnmapAll(out Fault fault)
    {
        BlockAll();
        var unmapped = Space.TryUnmapAll(out _, out fault);
        Unblock();
        _session.Peer.Maps = Space.Count;
        return unmapped;
    }

    private bool TryUnmapDirty(in VfioUserMessage message, IovaRange range, out Fault fault)
    {
        const int Head = DmaUnmapSize + DirtyBitmapSize;
        if (!VfioUserAnswers.TryCheckSize(message, Head, out fault))
            return false;
        var bitmap = message.Read<VfioUserDirtyBitmap>(DmaUnmapSize);
        if (_session.Handle.DmaLogging is not { } logging)
            return Refuse(Errno.EINVAL, "the device has no log of written pages", out fault);
        // A larger one is good, as for the kernel.
        if (bitmap.PageSize < PageSize || !ulong.IsPow2(bitmap.PageSize) || bitmap.Size < BitmapSize(range.Size, bitmap.PageSize))
            return Refuse(Errno.EINVAL, "the bitmap's size is not that of the range", out fault);
        if (bitmap.Size > (ulong)_options.MaxDataTransfer || message.ArgSize < (ulong)Head + bitmap.Size)
            return Refuse(Errno.EINVAL, "the bitmap is larger than an answer may be", out fault);
        // The log is read when nothing is written any more. It loses what it gives, so all that can be refused is refused before that.
        if (!logging.CanReport(range, bitmap.PageSize, out fault) || !TryUnmap(range, out fault))
            return false;
        var size = Head + (int)bitmap.Size;
        if (!message.WantsReply || !_session.Answers.TryBegin(message, size, out var reply))
            return true;
        message.Payload[..Head].CopyTo(reply);
        reply[Head..].Clear();
        var used = (int)BitmapSize(range.Size, bitmap.PageSize);
        return logging.TryReport(range, bitmap.PageSize, MemoryMarshal.Cast<byte, ulong>(reply.Slice(Head, used)), out fault) &&
            _session.Answers.Keep(size);
    }
}
