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
/// <remarks>The file is long: one short method for each request of the protocol, and what they share.</remarks>
internal sealed class VhostUserSession : IDisposable
{
    // Front ends send no status, or one of their own; the device is brought up by the order that it wants.
    private const byte StatusDriver = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER;
    private const byte StatusSettled = StatusDriver | VirtioStatus.FEATURES_OK;

    private readonly VhostUserServer _server;
    private readonly IVdpaOps _device;
    private readonly VhostUserChannel _channel;
    private readonly ILogger _logger;
    private readonly long _number;
    private readonly ConnectedPeer _peer;
    private readonly GuestMemory _memory;
    private readonly VhostUserRing[] _rings;
    private readonly Lock _backendLock = new();
    private UnixStream? _backend;
    private bool _featuresSet;
    private bool _unsealedWarned;
    private byte _status;
    private bool _memoryLost;

    internal VhostUserSession(VhostUserServer server, IVdpaOps device, UnixStream stream, EventFd cancel, ILogger logger, long number, ConnectedPeer peer)
    {
        _server = server;
        _device = device;
        _channel = new VhostUserChannel(stream, cancel);
        _logger = logger;
        _number = number;
        _peer = peer;
        _memory = new GuestMemory(LoseMemory, server.Mappings);
        _rings = new VhostUserRing[device.QueueCount];
        for (var i = 0; i < _rings.Length; i++)
            _rings[i] = new VhostUserRing();
        device.BeginUse();
        device.SetConfigCallback(AnnounceConfigChange);
    }

    /// <summary>Virtio features that the front end took; 0 before it did.</summary>
    internal ulong Features { get; private set; }

    /// <summary>Protocol features that the front end took.</summary>
    internal ulong ProtocolFeatures { get; private set; }

    /// <summary>Answers requests until the front end goes, misbehaves or the server stops.</summary>
    /// <returns>Why it ended, in words.</returns>
    internal string Run()
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
                if (fault == Fault.None)
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
        for (var i = 0; i < _rings.Length; i++)
        {
            _device.SetQueueKick(i, null);
            _device.SetQueueCall(i, null);
            _device.SetQueueError(i, null);
            _rings[i].Dispose();
        }

        _device.SetAddressSpace(null);
        _memory.Dispose();
        lock (_backendLock)
            _backend?.Dispose();
        _channel.Dispose();
    }

    private static bool Refuse(Errno errno, string message, out Fault fault)
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
                return Reply(message, (ulong)_rings.Length);
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
                DisableRings();
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
                return TrySetEventFd(message, out fault);
            case VhostUserRequest.SET_VRING_NUM or VhostUserRequest.SET_VRING_BASE or VhostUserRequest.SET_VRING_ENABLE:
                return TrySetRing(message, out fault);
            case VhostUserRequest.SET_VRING_ADDR:
                return TrySetAddress(message, out fault);
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

    private bool TrySetFeatures(ulong features, out Fault fault)
    {
        var wanted = features & ~VhostUserProtocol.VHOST_USER_F_PROTOCOL_FEATURES;
        if ((wanted & ~_device.DeviceFeatures) != 0)
            return Refuse(Errno.EINVAL, "a feature was taken that was not offered", out fault);
        // Sent twice by QEMU at each start: the second time nothing changes.
        if (!_featuresSet || Features != wanted)
        {
            StopRings();
            _device.Reset();
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
        {
            foreach (var ring in _rings)
                ring.IsEnabled = true;
        }

        return TryRunAll(out fault);
    }

    private void SetFeatures(ulong features, bool set)
    {
        Features = features;
        _featuresSet = set;
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
        StopRings();
        _device.Reset();
        foreach (var ring in _rings)
            ring.Reset();
        SetFeatures(0, false);
        _status = 0;
    }

    private void DisableRings()
    {
        StopRings();
        foreach (var ring in _rings)
            ring.IsEnabled = false;
    }

    private void StopRings()
    {
        for (var i = 0; i < _rings.Length; i++)
            StopRing(i);
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
        for (var i = 0; i < _rings.Length; i++)
        {
            var ring = _rings[i];
            if (ring.Applied is not null && (!TryLocate(ring.Addresses, out var place) || place != ring.Applied))
                StopRing(i);
            if (!TryRun(i, out _) && _server.MayLog())
                VhostUserLog.QueueWaits(_logger, _server.Path, i);
        }

        return changed;
    }

    private bool TryFindRing(ulong index, out VhostUserRing ring, out Fault fault)
    {
        var known = index < (ulong)_rings.Length;
        ring = known ? _rings[index] : null!;
        fault = known ? Fault.None : new Fault(Errno.EINVAL, "the ring index is not below the number of queues");
        return known;
    }

    private bool TrySetRing(in VhostUserMessage message, out Fault fault)
    {
        var state = message.Read<VhostUserRingState>();
        var (index, value) = (state.Index, state.Value);
        if (!TryFindRing(index, out var ring, out fault))
            return false;
        switch (message.Request)
        {
            case VhostUserRequest.SET_VRING_NUM:
                if (value == 0 || value > (uint)_device.MaxQueueSize || !uint.IsPow2(value))
                    return Refuse(Errno.EINVAL, "the ring size is no power of two within the device's limit", out fault);
                StopRing((int)index);
                var before = ring.Size;
                ring.Size = (int)value;
                if (TryRun((int)index, out fault))
                    return true;
                ring.Size = before;
                TryRun((int)index, out _);
                return false;
            case VhostUserRequest.SET_VRING_BASE:
                if (!QueueState.TryDecode(value, isPacked: false, out var begin, out fault))
                    return false;
                StopRing((int)index);
                ring.SetBase(begin);
                break;
            default:
                if (value > 1)
                    return Refuse(Errno.EINVAL, "a ring is enabled by 1 and disabled by 0", out fault);
                ring.IsEnabled = value == 1;
                if (!ring.IsEnabled)
                    StopRing((int)index);
                break;
        }

        return TryRun((int)index, out fault);
    }

    private bool TrySetAddress(in VhostUserMessage message, out Fault fault)
    {
        var asked = message.Read<VhostUserRingAddress>();
        var index = asked.Index;
        if (!TryFindRing(index, out var ring, out fault))
            return false;
        // Bit 0 asks for a dirty log of the used ring, which comes with a feature that is not offered.
        if (asked.Flags != 0)
            return Refuse(Errno.EINVAL, "a ring flag was set that comes with no feature offered", out fault);
        var addresses = (new UserAddress(asked.Descriptors), new UserAddress(asked.Available), new UserAddress(asked.Used));
        if (!TryLocate(addresses, out _))
        {
            // QEMU whose guest memory is its own has no region to send, and says nothing of it.
            if (_memory.Regions.Count == 0)
                _server.SayUnshared(_number);
            return Refuse(Errno.EFAULT, "a ring address lies in no shared region", out fault);
        }

        StopRing((int)index);
        var before = ring.Addresses;
        ring.Addresses = addresses;
        if (TryRun((int)index, out fault))
            return true;
        // The device may refuse a place that lies in a region. Nothing changes then: the ring goes on where it was.
        ring.Addresses = before;
        TryRun((int)index, out _);
        return false;
    }

    private bool TryGetBase(in VhostUserMessage message, out Fault fault)
    {
        // The number besides the index is a left-over in what DPDK sends.
        var index = message.Read<VhostUserRingState>().Index;
        if (!TryFindRing(index, out var ring, out fault))
            return false;
        StopRing((int)index);
        _device.SetQueueKick((int)index, null);
        ring.Kick?.Dispose();
        ring.Kick = null;
        ring.IsStarted = false;
        _channel.TryReply(message.Request, new VhostUserRingState { Index = index, Value = ring.Next.Encode() });
        return true;
    }

    private bool TrySetEventFd(in VhostUserMessage message, out Fault fault)
    {
        var index = message.Number & 0xff;
        if ((message.Number & ~(VhostUserProtocol.NoDescriptorFlag | 0xff)) != 0)
            return Refuse(Errno.EINVAL, "unknown bits beside the ring index", out fault);
        if (!TryFindRing(index, out var ring, out fault))
            return false;
        EventFd? eventFd = null;
        if (message.Descriptors.Count != 0)
        {
            var descriptor = message.TakeDescriptor();
            if (!EventFd.TryAdopt(descriptor, out eventFd, out fault))
            {
                message.ReturnDescriptor(descriptor);
                return false;
            }
        }

        EventFd? old;
        switch (message.Request)
        {
            case VhostUserRequest.SET_VRING_KICK:
                old = ring.Kick;
                ring.Kick = eventFd;
                ring.IsStarted = true;
                _device.SetQueueKick((int)index, eventFd);
                break;
            case VhostUserRequest.SET_VRING_CALL:
                old = ring.Call;
                ring.Call = eventFd;
                _device.SetQueueCall((int)index, eventFd);
                // A notification may have been lost with the old one; a spurious one is harmless.
                eventFd?.Signal();
                break;
            default:
                old = ring.Error;
                ring.Error = eventFd;
                _device.SetQueueError((int)index, eventFd);
                break;
        }

        old?.Dispose();
        return TryRun((int)index, out fault);
    }

    private bool TryRunAll(out Fault fault)
    {
        for (var i = 0; i < _rings.Length; i++)
        {
            if (!TryRun(i, out fault))
                return false;
        }

        fault = Fault.None;
        return true;
    }

    /// <summary>Lets the device run a ring once all that it needs is known; before that it is no error.</summary>
    private bool TryRun(int index, out Fault fault)
    {
        var ring = _rings[index];
        fault = Fault.None;
        if (ring.Applied is not null || !ring.IsRunnable)
            return true;
        if (!TryLocate(ring.Addresses, out var place))
            return Refuse(Errno.EFAULT, "a ring address lies in no shared region", out fault);
        // A front end need not send SET_FEATURES before its rings; it then has none.
        if (!_featuresSet && !TrySetFeatures(VhostUserProtocol.VHOST_USER_F_PROTOCOL_FEATURES, out fault))
            return false;
        if (ring.Applied is not null)
            return true;
        var started = _device.TrySetQueueSize(index, ring.Size, out fault) &&
            _device.TrySetQueueAddress(index, place.Descriptors, place.Available, place.Used, out fault) &&
            _device.TrySetQueueState(index, ring.Begin, out fault) &&
            _device.TrySetStatus(StatusSettled | VirtioStatus.DRIVER_OK, out fault) &&
            _device.TrySetQueueReady(index, true, out fault);
        if (started)
            ring.Applied = place;
        return started;
    }

    private void StopRing(int index)
    {
        var ring = _rings[index];
        if (ring.Applied is null)
            return;
        _device.TrySetQueueReady(index, false, out _);
        ring.SetBase(_device.GetQueueState(index));
        ring.Applied = null;
    }

    private bool TryLocate(
        (UserAddress Descriptors, UserAddress Available, UserAddress Used)? asked, out (Iova Descriptors, Iova Available, Iova Used) place)
    {
        place = default;
        if (asked is not { } addresses || !_memory.TryToGuest(addresses.Descriptors, out var descriptors) ||
            !_memory.TryToGuest(addresses.Available, out var available) || !_memory.TryToGuest(addresses.Used, out var used))
            return false;
        place = (new Iova(descriptors.Value), new Iova(available.Value), new Iova(used.Value));
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
