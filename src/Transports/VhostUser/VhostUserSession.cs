using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Virtbus.Buses.Vdpa;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using Virtbus.Wire.VhostUser;

namespace Virtbus.Transports.VhostUser;

/// <summary>
/// One front end, from its connect to its going: its memory, its rings, and the requests that set them up. Used by the server's thread;
/// only the device's callbacks come from other threads.
/// </summary>
internal sealed class VhostUserSession : IPeerSession
{
    // Front ends send no status, or one of their own; the device is brought up by the order that it wants.
    private const byte StatusDriver = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER;
    internal const byte StatusSettled = StatusDriver | VirtioStatus.FEATURES_OK;

    private readonly VhostUserServer _server;
    private readonly IVdpaOps _device;
    private readonly VhostUserChannel _channel;
    private readonly ILogger _logger;
    private readonly long _number;
    private readonly ConnectedPeer _peer;
    private readonly GuestMemory _memory;
    private readonly VhostUserRings _rings;
    private readonly Lock _backendLock = new();
    private UnixStream? _backend;
    private bool _unsealedWarned;
    private byte _status;
    private bool _memoryLost;
    private bool _isClosed;

    internal VhostUserSession(VhostUserServer server, IVdpaOps device, UnixStream stream, ILogger logger, long number, ConnectedPeer peer)
    {
        _server = server;
        _device = device;
        _channel = new VhostUserChannel(stream);
        _logger = logger;
        _number = number;
        _peer = peer;
        _memory = new GuestMemory(LoseMemory, server.Mappings);
        _rings = new VhostUserRings(this, device, _memory);
        device.BeginUse();
        device.SetConfigCallback(AnnounceConfigChange);
    }

    /// <summary>Virtio features that the front end took; 0 before it did.</summary>
    internal ulong Features { get; private set; }

    /// <summary>Whether it took features.</summary>
    internal bool HasFeatures { get; private set; }

    /// <summary>Whether its rings are packed ones; after a reset those that it had, whose places it may still ask for.</summary>
    internal bool IsPacked { get; private set; }

    /// <summary>Protocol features that the front end took.</summary>
    internal ulong ProtocolFeatures { get; private set; }

    public void Close(Fault reason)
    {
        Volatile.Write(ref _isClosed, true);
        _channel.Shutdown();
    }

    public string Run()
    {
        // There is no message yet that could be refused: the connection is.
        if (!_memory.TryReserve(out var fault))
        {
            _server.LogTurnedAway(_number, fault);
            return "it was turned away";
        }

        while (true)
        {
            if (!_channel.TryReceive(out var message, out fault))
            {
                // What was cut off by this side is nobody's mistake.
                if (fault == Fault.None || Volatile.Read(ref _isClosed))
                    return Volatile.Read(ref _memoryLost) ? "its memory is gone" : "end of stream";
                _server.LogBadMessage(_number, message.Request, fault, "connection closed");
                return "it sent what is no message";
            }

            _peer.CountMessage();
            VhostUserLog.Received(_logger, _server.Path, _number, message.Request, message.Flags, message.Payload.Length, message.Descriptors.Count);
            if (message.TryCheckShape(out fault) && TryHandle(message, out fault))
            {
                if (WantsAck(message) && !_channel.TryReply(message.Request, 0UL))
                    return "it no longer reads";
                continue;
            }

            if (!WantsAck(message))
            {
                _server.LogBadMessage(_number, message.Request, fault, "connection closed");
                return "it sent a bad message";
            }

            _server.LogBadMessage(_number, message.Request, fault, "answered with an error");
            if (!_channel.TryReply(message.Request, (ulong)fault.Errno))
                return "it no longer reads";
        }
    }

    /// <summary>Stops the device and lets go of all that came from the front end.</summary>
    public void Dispose()
    {
        _device.SetConfigCallback(null);
        _device.Reset();
        _rings.Dispose();
        _device.SetAddressSpace(null);
        _memory.Dispose();
        lock (_backendLock)
            _backend?.Dispose();
        _channel.Dispose();
    }

    internal static bool Refuse(Errno errno, string message, out Fault fault)
    {
        fault = new Fault(errno, message);
        return false;
    }

    private bool WantsAck(in VhostUserMessage message) =>
        message.NeedReply && !message.HasReply && (ProtocolFeatures & VhostUserProtocol.VHOST_USER_PROTOCOL_F_REPLY_ACK) != 0;

    private bool TryHandle(in VhostUserMessage message, out Fault fault)
    {
        fault = Fault.None;
        switch (message.Request)
        {
            case VhostUserRequest.GET_FEATURES:
                return Reply(message, _device.DeviceFeatures | VhostUserProtocol.VHOST_USER_F_PROTOCOL_FEATURES);
            case VhostUserRequest.GET_PROTOCOL_FEATURES:
                return Reply(message, VhostUserProtocol.ProtocolFeatures);
            case VhostUserRequest.GET_QUEUE_NUM:
                return Reply(message, (ulong)_rings.Count);
            case VhostUserRequest.GET_MAX_MEM_SLOTS:
                return Reply(message, GuestMemory.MaxRegions);
            case VhostUserRequest.GET_STATUS:
                return Reply(message, (ulong)(_status | (_device.Status & VirtioStatus.DEVICE_NEEDS_RESET)));
            case VhostUserRequest.GET_CONFIG:
                GetConfig(message);
                return true;
            case VhostUserRequest.GET_VRING_BASE:
                return TryGetBase(message, out fault);
            case VhostUserRequest.SET_OWNER:
                return true;
            case VhostUserRequest.SET_FEATURES:
                return TrySetFeatures(message.Number, out fault);
            case VhostUserRequest.SET_PROTOCOL_FEATURES:
                return TrySetProtocolFeatures(message.Number, out fault);
            case VhostUserRequest.SET_STATUS:
                return TrySetStatus(message.Number, out fault);
            case VhostUserRequest.RESET_OWNER:
                _rings.Disable();
                return true;
            case VhostUserRequest.RESET_DEVICE:
                Reset();
                return true;
            case VhostUserRequest.SET_CONFIG:
                return TrySetConfig(message, out fault);
            case VhostUserRequest.SET_BACKEND_REQ_FD:
                SetBackend(UnixStream.Adopt(message.TakeDescriptor()));
                return true;
            case VhostUserRequest.SET_MEM_TABLE or VhostUserRequest.ADD_MEM_REG or VhostUserRequest.REM_MEM_REG:
                return TryChangeMemory(message, out fault);
            case VhostUserRequest.SET_VRING_KICK or VhostUserRequest.SET_VRING_CALL or VhostUserRequest.SET_VRING_ERR:
                return _rings.TrySetEventFd(message, out fault);
            case VhostUserRequest.SET_VRING_NUM or VhostUserRequest.SET_VRING_BASE or VhostUserRequest.SET_VRING_ENABLE:
                return _rings.TrySet(message, out fault);
            case VhostUserRequest.SET_VRING_ADDR:
                return _rings.TrySetAddress(message, out fault);
            default:
                return Refuse(Errno.EOPNOTSUPP, "the request is not known", out fault);
        }
    }

    private bool Reply(in VhostUserMessage message, ulong value)
    {
        // A front end that no longer reads is noticed by the next receive.
        _channel.TryReply(message.Request, value);
        return true;
    }

    private void GetConfig(in VhostUserMessage message)
    {
        var asked = message.Read<VhostUserConfig>();
        var size = (int)asked.Size;
        var offset = (int)Math.Min(asked.Offset, int.MaxValue);
        var reply = _channel.ReplyPayload;
        message.Payload[..VhostUserProtocol.ConfigHeaderSize].CopyTo(reply);
        // A reply without payload says that it went wrong.
        var read = _device.TryGetConfig(offset, reply.Slice(VhostUserProtocol.ConfigHeaderSize, size), out var fault);
        if (!read)
            _server.LogBadMessage(_number, message.Request, fault, "answered with an error");
        _channel.TryReply(message.Request, read ? VhostUserProtocol.ConfigHeaderSize + size : 0);
    }

    private bool TrySetConfig(in VhostUserMessage message, out Fault fault)
    {
        var offset = (int)Math.Min(message.Read<VhostUserConfig>().Offset, int.MaxValue);
        return _device.TrySetConfig(offset, message.Payload[VhostUserProtocol.ConfigHeaderSize..], out fault);
    }

    /// <summary>Takes features; what is taken the second time changes nothing.</summary>
    internal bool TrySetFeatures(ulong features, out Fault fault)
    {
        var wanted = features & ~VhostUserProtocol.VHOST_USER_F_PROTOCOL_FEATURES;
        if ((wanted & ~_device.DeviceFeatures) != 0)
            return Refuse(Errno.EINVAL, "a feature was taken that was not offered", out fault);
        // Sent twice by QEMU at each start: the second time nothing changes.
        if (!HasFeatures || Features != wanted)
        {
            _rings.Stop();
            _device.Reset();
            var isPacked = new VirtioFeatures(wanted).Has(VirtioFeatures.VIRTIO_F_RING_PACKED);
            if (isPacked != IsPacked)
                _rings.ForgetPlaces();
            IsPacked = isPacked;
            SetFeatures(wanted, true);
            if (!_device.TrySetStatus(StatusDriver, out fault) || !_device.TrySetDriverFeatures(wanted, out fault) ||
                !_device.TrySetStatus(StatusSettled, out fault))
            {
                SetFeatures(0, false);
                return false;
            }
        }

        // Without the bit there is no SET_VRING_ENABLE: rings are enabled from the start.
        if ((features & VhostUserProtocol.VHOST_USER_F_PROTOCOL_FEATURES) == 0)
            _rings.Enable();
        return _rings.TryRunAll(out fault);
    }

    private void SetFeatures(ulong features, bool set)
    {
        Features = features;
        HasFeatures = set;
    }

    private bool TrySetProtocolFeatures(ulong features, out Fault fault)
    {
        if ((features & ~VhostUserProtocol.ProtocolFeatures) != 0)
            return Refuse(Errno.EINVAL, "a protocol feature was taken that was not offered", out fault);
        ProtocolFeatures = features;
        fault = Fault.None;
        return true;
    }

    private bool TrySetStatus(ulong status, out Fault fault)
    {
        if (status > byte.MaxValue)
            return Refuse(Errno.EINVAL, "the status has more than 8 bits", out fault);
        // Rings run by their own requests: QEMU's block front end sends no DRIVER_OK, DPDK sends it after the rings are enabled.
        if (status == 0)
            Reset();
        _status = (byte)status;
        fault = Fault.None;
        return true;
    }

    private void Reset()
    {
        // The device forgets where its queues are; the front end may ask for that afterwards.
        _rings.Stop();
        _device.Reset();
        _rings.Reset();
        SetFeatures(0, false);
        _status = 0;
    }

    /// <summary>The front end set a ring up, but let nobody reach its memory.</summary>
    internal void SayUnshared() => _server.SayUnshared(_number);

    /// <summary>A ring waits for memory that is not there any more.</summary>
    internal void SayWaits(int ring)
    {
        if (_server.MayLog())
            VhostUserLog.QueueWaits(_logger, _server.Path, ring);
    }

    private void SetBackend(UnixStream stream)
    {
        lock (_backendLock)
        {
            _backend?.Dispose();
            _backend = stream;
        }
    }

    // On a thread of the guard, after the device met zeros in place of the memory: what it does from here on is of no use to anybody.
    private void LoseMemory()
    {
        // One word for all its regions.
        if (Interlocked.Exchange(ref _memoryLost, true))
            return;
        if (_server.MayLog())
            VhostUserLog.MemoryLost(_logger, _server.Path, _number);
        _channel.Shutdown();
    }

    // An access beyond the end of a file that was cut is a signal that ends this process, where there is no guard, and this session where
    // there is one. A seal rules it out. Set before the file's size is looked at, so that nothing comes between.
    private void SealMemory(in VhostUserMessage message)
    {
        var isSealed = true;
        foreach (var descriptor in message.Descriptors)
            isSealed &= descriptor.TrySealShrink();
        if (isSealed || _unsealedWarned || Mapping.IsGuardSupported)
            return;
        _unsealedWarned = true;
        if (_server.MayLog())
            VhostUserLog.Unsealed(_logger, _server.Path, _number);
    }

    private static GuestRegion RegionOf(VhostUserRegion region) =>
        new(new GuestAddress(region.GuestAddress), region.Size, new UserAddress(region.UserAddress), region.FileOffset);

    private bool TrySetMemory(in VhostUserMessage message, out Fault fault)
    {
        var regions = new GuestRegion[message.Read<VhostUserMemoryTable>().Count];
        for (var i = 0; i < regions.Length; i++)
            regions[i] = RegionOf(message.Read<VhostUserRegion>(VhostUserProtocol.MemoryTableSize + (i * VhostUserProtocol.RegionSize)));
        return _memory.TryReplace(regions, message.Descriptors, out fault);
    }

    // The device stands still while its memory changes. A ring that moved, or that is gone for now, is set up anew.
    private bool TryChangeMemory(in VhostUserMessage message, out Fault fault)
    {
        SealMemory(message);
        _device.SetAddressSpace(null);
        var changed = message.Request switch
        {
            VhostUserRequest.SET_MEM_TABLE => TrySetMemory(message, out fault),
            VhostUserRequest.ADD_MEM_REG => _memory.TryAdd(RegionOf(message.Read<VhostUserSingleRegion>().Region), message.Descriptors[0], out fault),
            _ => _memory.TryRemove(RegionOf(message.Read<VhostUserSingleRegion>().Region), out fault),
        };
        _peer.Maps = _memory.Regions.Count;
        _device.SetAddressSpace(_memory.AddressSpace);
        _rings.Follow();
        return changed;
    }

    private bool TryGetBase(in VhostUserMessage message, out Fault fault)
    {
        // The number besides the index is a left-over in what DPDK sends.
        var index = message.Read<VhostUserRingState>().Index;
        if (!_rings.TryEnd(index, out var next, out fault))
            return false;
        _channel.TryReply(message.Request, new VhostUserRingState { Index = index, Value = next.Encode() });
        return true;
    }

    private void AnnounceConfigChange()
    {
        Span<byte> message = stackalloc byte[VhostUserProtocol.HeaderSize];
        MemoryMarshal.Write(message, new VhostUserHeader { Request = VhostUserProtocol.BACKEND_CONFIG_CHANGE, Flags = VhostUserProtocol.Version });
        // Never waits: a front end that does not read its channel misses the news and not more.
        lock (_backendLock)
            _backend?.Send(message, [], out _);
    }
}
