using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Transports.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// One client, from its connect to its going: the open device, the memory that it mapped, and its requests. Used by one thread of its own;
/// only the device's DMA to memory without a descriptor, and the news that the device is taken away, come from other threads.
/// </summary>
internal sealed partial class VfioUserSession : IDisposable
{
    private readonly VfioUserServer _server;
    private readonly VfioDevice _device;
    private readonly VfioUserServerOptions _options;
    private readonly ILogger _logger;
    private readonly long _number;
    private readonly ConnectedPeer _connected;
    private readonly bool _trace;
    private readonly VfioOwner _user;
    private readonly VfioUserChannel _channel;
    private readonly VfioUserOutbox _outbox;
    private readonly MappingAccount _mappings;
    private readonly Dictionary<uint, List<EventFd>> _doorbells = [];
    private readonly Lock _answerLock = new();
    private readonly byte[] _answer = new byte[HeaderSize + RegionAccessSize];
    private VfioHandle _handle = null!;
    private VfioDeviceInfo _info;
    private readonly VfioContainer _container;
    private VfioUserCapabilities _peer = new();
    private VfioUserChannel? _twin;
    private VfioUserRemoteMemory? _remote;
    private VfioMigrationStream? _stream;
    // What was read of the stream for an answer that could not be given.
    private byte[] _unsent = [];
    private int _answerSize;
    private bool _unsealedWarned;
    private bool _headersWarned;
    private bool _unsharedTold;
    private ulong _sharedBytes;
    private ulong _unsharedBytes;
    private bool _memoryLost;

    internal VfioUserSession(VfioUserServer server, VfioDevice device, UnixStream stream, VfioUserServerOptions options, ILogger logger, long number, ConnectedPeer peer)
    {
        _server = server;
        _device = device;
        _options = options;
        _logger = logger;
        _number = number;
        _connected = peer;
        _trace = logger.IsEnabled(LogLevel.Debug);
        _channel = new VfioUserChannel(stream, options.HeaderByHeader, options.AnswerTimeout);
        _outbox = new VfioUserOutbox(_channel);
        _mappings = new MappingAccount(LoseMemory, options.Mappings);
        _user = VfioUserPeers.Enter(stream);
        _container = new VfioContainer(_user, new IoAddressSpaceOptions { MaxMaps = options.MaxDmaMaps });
    }

    /// <summary>Ends the connection from outside. Safe from any thread.</summary>
    internal void Close(Fault reason)
    {
        _channel.Close(reason);
        Volatile.Read(ref _twin)?.Close(reason);
    }

    /// <summary>Answers requests until the client goes, sends what is no message, or <see cref="Close"/> is called.</summary>
    /// <returns>Why it ended, in words.</returns>
    internal string Run()
    {
        VfioUserMessage message;
        // Who connects and says nothing, or not all of it, keeps others waiting.
        using (_server.Time.CreateTimer(_ => Close(new Fault(Errno.ETIMEDOUT, "it did not say who it is")), null, _options.GreetingTimeout, Timeout.InfiniteTimeSpan))
        {
            if (!_channel.TryTake(_outbox, out message))
                return Reason();
        }

        _connected.CountMessage();
        if (!TryGreet(message, out var fault))
        {
            if (fault == Fault.None)
                return Reason();
            if (_server.MayLog())
                VfioUserLog.TurnedAway(_logger, _server.Path, _number, fault.Errno, fault.Message);
            ReplyError(message, fault.Errno);
            _outbox.TryFlush();
            return "it was turned away";
        }

        while (Step())
        {
        }

        return Reason();
    }

    /// <summary>Closes the device and lets go of all that came from the client.</summary>
    public void Dispose()
    {
        var over = new Fault(Errno.ECONNRESET, "the client is gone");
        Close(over);
        _stream?.Dispose();
        // Nothing of the device's DMA is under way when this returns: what waited for the client was given up above.
        _container.Dispose();
        _mappings.Dispose();
        VfioUserPeers.Leave(_user);
        foreach (var signals in _doorbells.Values)
        {
            foreach (var signal in signals)
                signal.Dispose();
        }

        _twin?.Dispose();
        _channel.Dispose();
    }

    /// <summary>Takes one request and answers it. A method of its own, so that it is compiled anew once it is hot; a loop is less so.</summary>
    /// <returns>False when the connection is over.</returns>
    private bool Step()
    {
        if (!_channel.TryTake(_outbox, out var message))
            return false;
        _connected.CountMessage();
        if (_trace)
            VfioUserLog.Received(_logger, _server.Path, _number, message.Command, message.Flags, message.Payload.Length, message.DescriptorCount);
        if (!TryHandle(message, out var fault))
            Refused(message, fault);
        // A device that is to reach memory by messages may wait for one in the next request, and the client for what is here.
        return _remote is null || _outbox.TryFlush();
    }

    private string Reason()
    {
        var end = _channel.End;
        if (end.Errno is Errno.ECONNRESET or Errno.ETIMEDOUT)
            return end.Message;
        _server.LogBadMessage(_number, default, end, "connection closed");
        return "it sent what is no message";
    }

    // The device is opened when the client has said who it is, so that one who only looks does not reset it.
    private bool TryGreet(in VfioUserMessage message, out Fault fault)
    {
        if (message.Command != VfioUserCommand.VERSION || message.Type != TypeCommand)
            return Refuse(Errno.EINVAL, "the first message is not VERSION", out fault);
        if (message.Payload.Length < VersionSize || message.DescriptorCount != 0 || !message.WantsReply)
            return Refuse(Errno.EINVAL, "VERSION has a size, descriptors or flags that it does not have", out fault);
        if (BinaryPrimitives.ReadUInt16LittleEndian(message.Payload) != Major)
            return Refuse(Errno.EINVAL, "the client speaks another major version", out fault);
        if (!VfioUserCapabilities.TryParse(message.Payload[VersionSize..], out _peer, out fault))
            return false;
        var minor = Math.Min(BinaryPrimitives.ReadUInt16LittleEndian(message.Payload[2..]), Minor);
        if (!_mappings.TryReserve(out fault))
            return false;
        var twin = _peer.TwinSocket && _options.TwinSocket && _peer.MaxDescriptors > 0;
        // Before the device is opened, which resets it: there may be no descriptor left.
        if (!TryMakeTwin(twin, out var theirs, out fault))
            return false;
        using (theirs)
            return TryOpen(message, minor, theirs, out fault);
    }

    private bool TryMakeTwin(bool wanted, out UnixStream? theirs, out Fault fault)
    {
        theirs = null;
        fault = Fault.None;
        if (!wanted)
            return true;
        try
        {
            (var ours, theirs) = UnixStream.CreatePair();
            Volatile.Write(ref _twin, VfioUserChannel.ForReplies(ours, _options.AnswerTimeout));
            theirs.TryMakeBlocking();
            return true;
        }
        catch (VirtbusException e)
        {
            fault = new Fault(e.Errno, e.Message);
            return false;
        }
    }

    private bool TryOpen(in VfioUserMessage message, ushort minor, UnixStream? twin, out Fault fault)
    {
        if (!_container.TryOpen(_device, out var handle, out fault))
            return false;
        _handle = handle!;
        _info = handle!.Info;
        handle.SetRequestCallback(revoked =>
        {
            // Before that the client hears by its interrupt, when it set one up; else it is waited for.
            if (revoked)
                Close(new Fault(Errno.ECONNRESET, "the device was taken away"));
        });
        // What the client did not ask for is not offered: one that knows nothing of it may not even pass it over.
        var text = new VfioUserCapabilities
        {
            MaxDescriptors = _options.MaxDescriptors,
            MaxDataTransfer = (ulong)_options.MaxDataTransfer,
            MaxDmaMaps = (ulong)_options.MaxDmaMaps,
            WriteMultiple = _peer.WriteMultiple,
            Migration = _peer.Migration && handle.Migration is not null,
            TwinSocket = twin is not null,
            TwinIndex = twin is not null ? 0 : -1,
        }.ToText();
        if (!TryReply(message, VersionSize + text.Length, out var bytes))
            return true;
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, Major);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[2..], minor);
        text.CopyTo(bytes[VersionSize..]);
        if (twin is null)
            return Keep(VersionSize + text.Length);
        _outbox.TrySend(HeaderSize + VersionSize + text.Length, [twin.Descriptor]);
        return true;
    }

    private IoAddressSpace Space => _container.Space;

    private bool TryHandle(in VfioUserMessage message, out Fault fault)
    {
        if (message.Type != TypeCommand || (message.Flags & ~(TypeMask | NoReplyFlag)) != 0)
            return Refuse(Errno.EINVAL, "the header has flags that a command does not have", out fault);
        if (message.DescriptorCount != 0 && !MayCarryDescriptors(message.Command, isReply: false))
            return Refuse(Errno.EINVAL, "descriptors came that the command does not have", out fault);
        if (message.Command == VfioUserCommand.REGION_READ)
            return TryRead(message, out fault);
        switch (message.Command)
        {
            case VfioUserCommand.REGION_WRITE:
                return TryWrite(message, out fault);
            case VfioUserCommand.REGION_WRITE_MULTI:
                return TryWriteMulti(message, out fault);
            case VfioUserCommand.DMA_MAP:
                return TryMap(message, out fault);
            case VfioUserCommand.DMA_UNMAP:
                return TryUnmap(message, out fault);
            case VfioUserCommand.DEVICE_GET_INFO:
                return TryGetInfo(message, out fault);
            case VfioUserCommand.DEVICE_GET_REGION_INFO:
                return TryGetRegionInfo(message, out fault);
            case VfioUserCommand.DEVICE_GET_REGION_IO_FDS:
                return TryGetIoFds(message, out fault);
            case VfioUserCommand.DEVICE_GET_IRQ_INFO:
                return TryGetIrqInfo(message, out fault);
            case VfioUserCommand.DEVICE_SET_IRQS:
                return TrySetIrqs(message, out fault);
            case VfioUserCommand.DEVICE_RESET:
                return TryReset(message, out fault);
            case VfioUserCommand.DEVICE_FEATURE:
                return TryFeature(message, out fault);
            case VfioUserCommand.MIG_DATA_READ:
                return TryReadMigration(message, out fault);
            case VfioUserCommand.MIG_DATA_WRITE:
                return TryWriteMigration(message, out fault);
            case VfioUserCommand.VERSION:
                return Refuse(Errno.EINVAL, "the version is settled already", out fault);
            default:
                return Refuse(Errno.EINVAL, "the command is not one that a client sends", out fault);
        }
    }

    private void Refused(in VfioUserMessage message, Fault fault)
    {
        // Asking for a feature that is not there is how a client finds out.
        if (fault.Errno != Errno.ENOTTY)
            _server.LogBadMessage(_number, message.Command, fault, message.WantsReply ? "answered with an error" : "no answer is wanted");
        NoteHeaders();
        if (message.WantsReply)
            ReplyError(message, fault.Errno);
    }

    private void NoteHeaders()
    {
        if (!_channel.IsHeaderByHeader || _options.HeaderByHeader || _headersWarned)
            return;
        _headersWarned = true;
        if (_server.MayLog())
            VfioUserLog.HeaderByHeader(_logger, _server.Path, _number);
    }

    private void ReplyError(in VfioUserMessage message, Errno errno)
    {
        if (!_outbox.TryReserve(HeaderSize, out var bytes))
            return;
        VfioUserMessage.WriteHeader(bytes, message.Id, message.Command, HeaderSize, TypeReply | ErrorFlag, errno);
        _outbox.Commit(HeaderSize);
    }

    /// <summary>Begins a reply. False when the connection is over, which the next take notices.</summary>
    private bool TryReply(in VfioUserMessage message, int size, out Span<byte> payload)
    {
        if (!_outbox.TryReserve(HeaderSize + size, out var bytes))
        {
            payload = default;
            return false;
        }

        VfioUserMessage.WriteHeader(bytes, message.Id, message.Command, bytes.Length, TypeReply);
        payload = bytes[HeaderSize..];
        return true;
    }

    private bool Keep(int size)
    {
        _outbox.Commit(HeaderSize + size);
        return true;
    }

    /// <summary>Replies with the first bytes of the request, or with nothing.</summary>
    private bool Reply(in VfioUserMessage message, int size, out Fault fault)
    {
        fault = Fault.None;
        if (!message.WantsReply || !TryReply(message, size, out var bytes))
            return true;
        message.Payload[..size].CopyTo(bytes);
        return Keep(size);
    }

    private static bool TryCheckSize(in VfioUserMessage message, int least, out Fault fault)
    {
        if (message.Payload.Length < least)
            return Refuse(Errno.EINVAL, "the message is shorter than its command", out fault);
        if (message.Word(0) < least)
            return Refuse(Errno.EINVAL, "argsz is smaller than what it counts", out fault);
        fault = Fault.None;
        return true;
    }

    // Regions.

    private bool TryCheckAccess(in VfioUserMessage message, int size, out Fault fault)
    {
        fault = Fault.None;
        if (message.Payload.Length < RegionAccessSize)
            return Refuse(Errno.EINVAL, "the message is shorter than its command", out fault);
        var count = message.Word(12);
        if (count > (uint)_options.MaxDataTransfer)
            return Refuse(Errno.EINVAL, "more is asked for than one message may carry", out fault);
        return message.Payload.Length == RegionAccessSize + (size < 0 ? (int)count : size) ||
            Refuse(Errno.EINVAL, "the message's size is not that of its data", out fault);
    }

    private bool TryRead(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckAccess(message, 0, out fault))
            return false;
        var count = (int)message.Word(12);
        if (!TryReply(message, RegionAccessSize + count, out var bytes))
            return true;
        message.Payload[..RegionAccessSize].CopyTo(bytes);
        if (!_handle.TryRead(message.Word(8), message.Long(0), bytes[RegionAccessSize..], out fault))
            return false;
        return !message.WantsReply || Keep(RegionAccessSize + count);
    }

    private bool TryWrite(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckAccess(message, -1, out fault))
            return false;
        if (_remote is not null && message.WantsReply)
            return TryWriteAnswerable(message, message.Payload[..RegionAccessSize], out fault);
        return _handle.TryWrite(message.Word(8), message.Long(0), message.Payload[RegionAccessSize..], out fault) &&
            Reply(message, RegionAccessSize, out fault);
    }

    private bool TryWriteMulti(in VfioUserMessage message, out Fault fault)
    {
        if (message.Payload.Length < WriteMultiHeaderSize)
            return Refuse(Errno.EINVAL, "the message is shorter than its command", out fault);
        var count = message.Long(0);
        if (count > (ulong)(message.Payload.Length / WriteMultiEntrySize) ||
            message.Payload.Length != WriteMultiHeaderSize + ((int)count * WriteMultiEntrySize))
            return Refuse(Errno.EINVAL, "the message's size is not that of its data", out fault);
        // All of them are looked at before the first is done.
        for (var i = 0; i < (int)count; i++)
        {
            var at = WriteMultiHeaderSize + (i * WriteMultiEntrySize);
            if (message.Word(at + 12) is 0 or > WriteMultiData)
                return Refuse(Errno.EINVAL, "an entry has no data, or more than fits into it", out fault);
            if (!_handle.CanWrite(message.Word(at + 8), message.Long(at), (int)message.Word(at + 12), out fault))
                return false;
        }

        if (_remote is not null && message.WantsReply)
            return TryWriteAnswerable(message, message.Payload[..WriteMultiHeaderSize], out fault);
        return TryWriteEntries(message, out fault) && Reply(message, WriteMultiHeaderSize, out fault);
    }

    private bool TryWriteEntries(in VfioUserMessage message, out Fault fault)
    {
        var count = (int)message.Long(0);
        for (var i = 0; i < count; i++)
        {
            var at = WriteMultiHeaderSize + (i * WriteMultiEntrySize);
            var data = message.Payload.Slice(at + 16, (int)message.Word(at + 12));
            if (!_handle.TryWrite(message.Word(at + 8), message.Long(at), data, out fault))
                return false;
        }

        fault = Fault.None;
        return true;
    }

    /// <summary>
    /// A write after which the device may want the client's memory by messages before it is through. The client may not answer them before it
    /// has its own answer: QEMU's processor holds the lock that its main loop needs for them. So the answer goes first, when there is one to
    /// go: a write on the bus has no result either.
    /// </summary>
    private bool TryWriteAnswerable(in VfioUserMessage message, ReadOnlySpan<byte> reply, out Fault fault)
    {
        VfioUserMessage.WriteHeader(_answer, message.Id, message.Command, HeaderSize + reply.Length, TypeReply);
        reply.CopyTo(_answer.AsSpan(HeaderSize));
        lock (_answerLock)
            _answerSize = HeaderSize + reply.Length;
        var good = message.Command == VfioUserCommand.REGION_WRITE
            ? _handle.TryWrite(message.Word(8), message.Long(0), message.Payload[RegionAccessSize..], out fault)
            : TryWriteEntries(message, out fault);
        bool due;
        lock (_answerLock)
        {
            due = _answerSize > 0;
            _answerSize = 0;
        }

        if (!due)
        {
            if (!good)
                _server.LogBadMessage(_number, message.Command, fault, "it was answered before");
            fault = Fault.None;
            return true;
        }

        return good && Reply(message, reply.Length, out fault);
    }

    private void AnswerFirst()
    {
        lock (_answerLock)
        {
            if (_answerSize == 0)
                return;
            _channel.TrySend(_answer.AsSpan(0, _answerSize), default);
            _answerSize = 0;
        }
    }

    // Memory.

    // On a thread of the guard, after the device met zeros in place of the memory: what it does from here on is of no use to anybody.
    private void LoseMemory()
    {
        // One word for all its maps.
        if (Interlocked.Exchange(ref _memoryLost, true))
            return;
        if (_server.MayLog())
            VfioUserLog.MemoryLost(_logger, _server.Path, _number);
        Close(new Fault(Errno.ECONNRESET, "its memory is gone"));
    }

    private static bool TryCheckRange(ulong start, ulong size, out Fault fault)
    {
        fault = Fault.None;
        if (size == 0 || start % PageSize != 0 || size % PageSize != 0)
            return Refuse(Errno.EINVAL, "the range is empty or not of whole pages", out fault);
        return size - 1 <= ulong.MaxValue - start || Refuse(Errno.EINVAL, "the range wraps around the end of the address space", out fault);
    }

    private bool TryMap(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, DmaMapSize, out fault))
            return false;
        var flags = message.Word(4);
        if ((flags & ~(DmaReadFlag | DmaWriteFlag | DmaHintFlags)) != 0 || (flags & (DmaReadFlag | DmaWriteFlag)) == 0)
            return Refuse(Errno.EINVAL, "the flags are unknown, or allow no access", out fault);
        if (message.DescriptorCount > 1)
            return Refuse(Errno.EINVAL, "more than one descriptor came", out fault);
        ulong start = message.Long(16), size = message.Long(24);
        if (!TryCheckRange(start, size, out fault))
            return false;
        // The flags have the bits of DmaAccess.
        var access = (DmaAccess)(flags & (DmaReadFlag | DmaWriteFlag));
        if (message.DescriptorCount == 0 && (flags & DmaHintFlags) != 0)
            return Refuse(Errno.EINVAL, "the flags ask to map a file or to read and write it, but no descriptor came", out fault);
        if (message.DescriptorCount == 0)
            return TryMapRemote(new IovaRange(new Iova(start), size), access, out fault) && Mapped(0, size) && Reply(message, 0, out fault);
        NoteHeaders();
        var file = message.Descriptor(0);
        // An access beyond the end of a file that was cut is a signal that ends this process, where there is no guard, and this session
        // where there is one. A seal rules it out. Set before the file's size is looked at, so that nothing comes between.
        if (!file.TrySealShrink() && !_unsealedWarned && !Mapping.IsGuardSupported)
        {
            _unsealedWarned = true;
            if (_server.MayLog())
                VfioUserLog.Unsealed(_logger, _server.Path, _number);
        }

        if (!HostMemory.TryMap(_mappings, file, message.Long(8), size, access, out var memory, out fault))
            return false;
        // The space holds a reference of its own from here on.
        using (memory)
            return Space.TryMap(new Iova(start), size, memory!, 0, access, out fault) && Mapped(size, 0) && Reply(message, 0, out fault);
    }

    // A machine has pieces that no VMM shares, such as its firmware: the word is for those whose memory as a whole is none that can be mapped.
    private bool Mapped(ulong shared, ulong unshared)
    {
        _connected.Maps = Space.Count;
        _sharedBytes = unchecked(_sharedBytes + shared);
        _unsharedBytes = unchecked(_unsharedBytes + unshared);
        if (_unsharedTold || _unsharedBytes <= _sharedBytes)
            return true;
        _unsharedTold = true;
        _server.SayUnshared(_number);
        return true;
    }

    private bool TryMapRemote(IovaRange range, DmaAccess access, out Fault fault)
    {
        if (_remote is not null)
            return Space.TryMap(range, _remote, access, out fault);
        // From here on other threads may wait for replies, and the answers to requests go out one by one.
        _channel.Share();
        var most = (int)Math.Min(_peer.MaxDataTransfer, MaxDataTransfer);
        var remote = new VfioUserRemoteMemory(_twin ?? _channel, most, (int)_options.AnswerTimeout.TotalMilliseconds, AnswerFirst);
        if (!Space.TryMap(range, remote, access, out fault))
            return false;
        _remote = remote;
        return true;
    }

    private bool TryUnmap(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, DmaUnmapSize, out fault))
            return false;
        var flags = message.Word(4);
        ulong start = message.Long(8), size = message.Long(16);
        if (flags == UnmapAllFlag)
        {
            if (start != 0 || size != 0)
                return Refuse(Errno.EINVAL, "all is to be unmapped, but a range is named", out fault);
            return TryUnmapAll(out fault) && Reply(message, DmaUnmapSize, out fault);
        }

        if ((flags & ~UnmapDirtyBitmapFlag) != 0)
            return Refuse(Errno.EINVAL, "the flags are unknown, or do not go together", out fault);
        if (!TryCheckRange(start, size, out fault))
            return false;
        var range = new IovaRange(new Iova(start), size);
        if (flags != 0)
            return TryUnmapDirty(message, range, out fault);
        return TryUnmap(range, out fault) && Reply(message, DmaUnmapSize, out fault);
    }

    private bool TryUnmap(IovaRange range, out Fault fault)
    {
        // Accesses that are under way are given up, so not for an unmap that is refused.
        if (!Space.CanUnmap(range, out fault))
            return false;
        _remote?.Block(range.Start.Value, range.Last);
        var unmapped = Space.TryUnmap(range, out _, out fault);
        _remote?.Unblock();
        _connected.Maps = Space.Count;
        return unmapped;
    }

    private bool TryUnmapAll(out Fault fault)
    {
        _remote?.Block(0, ulong.MaxValue);
        var unmapped = Space.TryUnmapAll(out _, out fault);
        _remote?.Unblock();
        _connected.Maps = Space.Count;
        return unmapped;
    }

    private bool TryUnmapDirty(in VfioUserMessage message, IovaRange range, out Fault fault)
    {
        const int Head = DmaUnmapSize + DirtyBitmapSize;
        if (!TryCheckSize(message, Head, out fault))
            return false;
        ulong pageSize = message.Long(DmaUnmapSize), bytes = message.Long(DmaUnmapSize + 8);
        if (_handle.DmaLogging is not { } logging)
            return Refuse(Errno.EINVAL, "the device has no log of written pages", out fault);
        // A larger one is good, as for the kernel.
        if (pageSize < PageSize || !ulong.IsPow2(pageSize) || bytes < BitmapSize(range.Size, pageSize))
            return Refuse(Errno.EINVAL, "the bitmap's size is not that of the range", out fault);
        if (bytes > (ulong)_options.MaxDataTransfer || message.Word(0) < (ulong)Head + bytes)
            return Refuse(Errno.EINVAL, "the bitmap is larger than an answer may be", out fault);
        // The log is read when nothing is written any more. It loses what it gives, so all that can be refused is refused before that.
        if (!logging.CanReport(range, pageSize, out fault) || !TryUnmap(range, out fault))
            return false;
        if (!message.WantsReply || !TryReply(message, Head + (int)bytes, out var reply))
            return true;
        message.Payload[..Head].CopyTo(reply);
        reply[Head..].Clear();
        var used = (int)BitmapSize(range.Size, pageSize);
        return logging.TryReport(range, pageSize, MemoryMarshal.Cast<byte, ulong>(reply.Slice(Head, used)), out fault) && Keep(Head + (int)bytes);
    }
}
