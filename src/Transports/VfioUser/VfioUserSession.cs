using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// One client, from its connect to its going: the open device, and its requests, each handed to what answers it: registers, memory, description,
/// features. Used by one thread of its own; only the device's DMA to memory without a descriptor, and the news that the device is taken away, come
/// from other threads.
/// </summary>
internal sealed class VfioUserSession : IPeerSession
{
    private readonly VfioUserServer _server;
    private readonly VfioDevice _device;
    private readonly VfioUserServerOptions _options;
    private readonly ILogger _logger;
    private readonly long _number;
    private readonly bool _trace;
    private readonly VfioOwner _user;
    private VfioUserRegisters _registers = null!;
    private VfioUserDescription? _description;
    private VfioUserFeatures? _features;
    private VfioUserCapabilities _peer = new();
    private VfioUserChannel? _twin;
    private bool _headersWarned;

    internal VfioUserSession(VfioUserServer server, VfioDevice device, UnixStream stream, VfioUserServerOptions options, ILogger logger, long number, ConnectedPeer peer)
    {
        _server = server;
        _device = device;
        _options = options;
        _logger = logger;
        _number = number;
        Peer = peer;
        _trace = logger.IsEnabled(LogLevel.Debug);
        Channel = new VfioUserChannel(stream, options.HeaderByHeader, options.AnswerTimeout);
        Answers = new VfioUserAnswers(Channel);
        _user = VfioUserPeers.Enter(stream);
        Memory = new VfioUserClientMemory(this, options, _user);
    }

    internal VfioUserChannel Channel { get; }

    internal VfioUserAnswers Answers { get; }

    internal VfioUserClientMemory Memory { get; }

    internal ConnectedPeer Peer { get; }

    /// <summary>The open device; there is one once the client has said who it is.</summary>
    internal VfioHandle Handle { get; private set; } = null!;

    public void Close(Fault reason)
    {
        Channel.Close(reason);
        Volatile.Read(ref _twin)?.Close(reason);
    }

    public string Run()
    {
        VfioUserMessage message;
        // Who connects and says nothing, or not all of it, keeps others waiting.
        using (_server.Time.CreateTimer(_ => Close(new Fault(Errno.ETIMEDOUT, "it did not say who it is")), null, _options.GreetingTimeout, Timeout.InfiniteTimeSpan))
        {
            if (!Channel.TryTake(Answers.Outbox, out message))
                return Reason();
        }

        Peer.CountMessage();
        if (!TryGreet(message, out var fault))
        {
            if (fault == Fault.None)
                return Reason();
            if (_server.MayLog())
                VfioUserLog.TurnedAway(_logger, _server.Path, _number, fault.Errno, fault.Message);
            Answers.Refuse(message, fault.Errno);
            Answers.Outbox.TryFlush();
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
        Close(new Fault(Errno.ECONNRESET, "the client is gone"));
        _features?.Dispose();
        Memory.Dispose();
        VfioUserPeers.Leave(_user);
        _description?.Dispose();
        _twin?.Dispose();
        Channel.Dispose();
    }

    internal void LogBadMessage(VfioUserCommand command, Fault fault, string answer) => _server.LogBadMessage(_number, command, fault, answer);

    /// <summary>A message came whose descriptors could be elsewhere than they belong.</summary>
    internal void NoteHeaders()
    {
        if (!Channel.IsHeaderByHeader || _options.HeaderByHeader || _headersWarned)
            return;
        _headersWarned = true;
        if (_server.MayLog())
            VfioUserLog.HeaderByHeader(_logger, _server.Path, _number);
    }

    /// <summary>The client's memory can be cut, and nothing guards this process.</summary>
    internal void SayUnsealed()
    {
        if (_server.MayLog())
            VfioUserLog.Unsealed(_logger, _server.Path, _number);
    }

    /// <summary>Most of what the client maps it keeps to itself.</summary>
    internal void SayUnshared() => _server.SayUnshared(_number);

    /// <summary>The client's memory is gone. Any thread.</summary>
    internal void LoseMemory()
    {
        if (_server.MayLog())
            VfioUserLog.MemoryLost(_logger, _server.Path, _number);
        Close(new Fault(Errno.ECONNRESET, "its memory is gone"));
    }

    /// <summary>
    /// The way to memory that cannot be mapped. From here on other threads may wait for replies, and the answers to requests go out one by one.
    /// </summary>
    internal VfioUserRemoteMemory MakeRemoteMemory()
    {
        Channel.Share();
        var most = (int)Math.Min(_peer.MaxDataTransfer, MaxDataTransfer);
        return new VfioUserRemoteMemory(_twin ?? Channel, most, (int)_options.AnswerTimeout.TotalMilliseconds, _registers.AnswerFirst);
    }

    /// <summary>Takes one request and answers it. A method of its own, so that it is compiled anew once it is hot; a loop is less so.</summary>
    /// <returns>False when the connection is over.</returns>
    private bool Step()
    {
        if (!Channel.TryTake(Answers.Outbox, out var message))
            return false;
        Peer.CountMessage();
        if (_trace)
            VfioUserLog.Received(_logger, _server.Path, _number, message.Command, message.Flags, message.Payload.Length, message.DescriptorCount);
        if (!TryHandle(message, out var fault))
            Refused(message, fault);
        // A device that is to reach memory by messages may wait for one in the next request, and the client for what is here.
        return !Memory.IsRemote || Answers.Outbox.TryFlush();
    }

    private string Reason()
    {
        var end = Channel.End;
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
        var version = message.Read<VfioUserVersion>();
        if (version.Major != Major)
            return Refuse(Errno.EINVAL, "the client speaks another major version", out fault);
        if (!VfioUserCapabilities.TryParse(message.Payload[VersionSize..], out _peer, out fault))
            return false;
        if (!Memory.TryReserve(out fault))
            return false;
        var twin = _peer.TwinSocket && _options.TwinSocket && _peer.MaxDescriptors > 0;
        // Before the device is opened, which resets it: there may be no descriptor left.
        if (!TryMakeTwin(twin, out var theirs, out fault))
            return false;
        using (theirs)
            return TryOpen(message, Math.Min(version.Minor, Minor), theirs, out fault);
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
        if (!Memory.Container.TryOpen(_device, out var handle, out fault))
            return false;
        Handle = handle!;
        _registers = new VfioUserRegisters(this, handle!, _options.MaxDataTransfer);
        _description = new VfioUserDescription(this, handle!, _peer.MaxDescriptors, _options.MaxDescriptors);
        _features = new VfioUserFeatures(Answers, handle!, _options.MaxDataTransfer);
        handle!.SetRequestCallback(revoked =>
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
        var size = VersionSize + text.Length;
        if (!Answers.TryBegin(message, size, out var bytes))
            return true;
        MemoryMarshal.Write(bytes, new VfioUserVersion { Major = Major, Minor = minor });
        text.CopyTo(bytes[VersionSize..]);
        return twin is null ? Answers.Keep(size) : Answers.Send(size, [twin.Descriptor]);
    }

    private bool TryHandle(in VfioUserMessage message, out Fault fault)
    {
        if (message.Type != TypeCommand || (message.Flags & ~(TypeMask | NoReplyFlag)) != 0)
            return Refuse(Errno.EINVAL, "the header has flags that a command does not have", out fault);
        if (message.DescriptorCount != 0 && !MayCarryDescriptors(message.Command, isReply: false))
            return Refuse(Errno.EINVAL, "descriptors came that the command does not have", out fault);
        if (message.Command == VfioUserCommand.REGION_READ)
            return _registers.TryRead(message, out fault);
        switch (message.Command)
        {
            case VfioUserCommand.REGION_WRITE:
                return _registers.TryWrite(message, out fault);
            case VfioUserCommand.REGION_WRITE_MULTI:
                return _registers.TryWriteMulti(message, out fault);
            case VfioUserCommand.DMA_MAP:
                return Memory.TryMap(message, out fault);
            case VfioUserCommand.DMA_UNMAP:
                return Memory.TryUnmap(message, out fault);
            case VfioUserCommand.DEVICE_GET_INFO:
                return _description!.TryGetInfo(message, out fault);
            case VfioUserCommand.DEVICE_GET_REGION_INFO:
                return _description!.TryGetRegionInfo(message, out fault);
            case VfioUserCommand.DEVICE_GET_REGION_IO_FDS:
                return _description!.TryGetIoFds(message, out fault);
            case VfioUserCommand.DEVICE_GET_IRQ_INFO:
                return _description!.TryGetIrqInfo(message, out fault);
            case VfioUserCommand.DEVICE_SET_IRQS:
                return _description!.TrySetIrqs(message, out fault);
            case VfioUserCommand.DEVICE_RESET:
                return TryReset(message, out fault);
            case VfioUserCommand.DEVICE_FEATURE:
                return _features!.TryUse(message, out fault);
            case VfioUserCommand.MIG_DATA_READ:
                return _features!.TryReadMigration(message, out fault);
            case VfioUserCommand.MIG_DATA_WRITE:
                return _features!.TryWriteMigration(message, out fault);
            case VfioUserCommand.VERSION:
                return Refuse(Errno.EINVAL, "the version is settled already", out fault);
            default:
                return Refuse(Errno.EINVAL, "the command is not one that a client sends", out fault);
        }
    }

    private bool TryReset(in VfioUserMessage message, out Fault fault)
    {
        if (!message.Payload.IsEmpty)
            return Refuse(Errno.EINVAL, "the message is longer than its command", out fault);
        Memory.BlockAll();
        var done = Handle.TryReset(out fault);
        Memory.Unblock();
        if (!done)
            return false;
        _features!.DropStream();
        return Answers.Echo(message, 0, out fault);
    }

    private void Refused(in VfioUserMessage message, Fault fault)
    {
        // Asking for a feature that is not there is how a client finds out.
        if (fault.Errno != Errno.ENOTTY)
            _server.LogBadMessage(_number, message.Command, fault, message.WantsReply ? "answered with an error" : "no answer is wanted");
        NoteHeaders();
        if (message.WantsReply)
            Answers.Refuse(message, fault.Errno);
    }
}
