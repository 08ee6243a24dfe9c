using Virtbus.Buses.Vdpa;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using Virtbus.Wire.VhostUser;

namespace Virtbus.Transports.VhostUser;

/// <summary>The rings of one front end: what it said of each, and which of them the device runs. Used by the server's thread.</summary>
/// <param name="session">Whose.</param>
/// <param name="device">What runs them.</param>
/// <param name="memory">Where they lie.</param>
internal sealed class VhostUserRings(VhostUserSession session, IVdpaOps device, GuestMemory memory) : IDisposable
{
    private readonly VhostUserRing[] _rings = [.. Enumerable.Range(0, device.QueueCount).Select(_ => new VhostUserRing())];

    internal int Count => _rings.Length;

    /// <summary>Takes the eventfds from the device, which stands still, and lets go of them.</summary>
    public void Dispose()
    {
        for (var i = 0; i < _rings.Length; i++)
        {
            device.SetQueueKick(i, null);
            device.SetQueueCall(i, null);
            device.SetQueueError(i, null);
            _rings[i].Dispose();
        }
    }

    internal void Enable()
    {
        foreach (var ring in _rings)
            ring.IsEnabled = true;
    }

    /// <summary>The rings are of the other format from now on: where they stood means nothing there. They are stopped.</summary>
    internal void ForgetPlaces()
    {
        foreach (var ring in _rings)
            ring.SetBase(default);
    }

    internal void Disable()
    {
        Stop();
        foreach (var ring in _rings)
            ring.IsEnabled = false;
    }

    internal void Stop()
    {
        for (var i = 0; i < _rings.Length; i++)
            Stop(i);
    }

    /// <summary>Forgets the set-up of all; they are stopped.</summary>
    internal void Reset()
    {
        foreach (var ring in _rings)
            ring.Reset();
    }

    /// <summary>The memory changed: a ring that moved, or that is gone for now, is set up anew.</summary>
    internal void Follow()
    {
        for (var i = 0; i < _rings.Length; i++)
        {
            var ring = _rings[i];
            if (ring.Applied is not null && (!TryLocate(ring.Addresses, out var place) || place != ring.Applied))
                Stop(i);
            if (!TryRun(i, out _))
                session.SayWaits(i);
        }
    }

    private bool TryFind(ulong index, out VhostUserRing ring, out Fault fault)
    {
        var known = index < (ulong)_rings.Length;
        ring = known ? _rings[index] : null!;
        fault = known ? Fault.None : new Fault(Errno.EINVAL, "the ring index is not below the number of queues");
        return known;
    }

    internal bool TrySet(in VhostUserMessage message, out Fault fault)
    {
        var state = message.Read<VhostUserRingState>();
        var (index, value) = (state.Index, state.Value);
        if (!TryFind(index, out var ring, out fault))
            return false;
        switch (message.Request)
        {
            case VhostUserRequest.SET_VRING_NUM:
                if (value == 0 || value > (uint)device.MaxQueueSize || !(uint.IsPow2(value) || session.IsPacked))
                    return VhostUserSession.Refuse(Errno.EINVAL, "the ring size is no power of two within the device's limit", out fault);
                Stop((int)index);
                var before = ring.Size;
                ring.Size = (int)value;
                if (TryRun((int)index, out fault))
                    return true;
                ring.Size = before;
                TryRun((int)index, out _);
                return false;
            case VhostUserRequest.SET_VRING_BASE:
                if (!QueueState.TryDecode(value, session.IsPacked, out var begin, out fault))
                    return false;
                Stop((int)index);
                ring.SetBase(begin);
                break;
            default:
                if (value > 1)
                    return VhostUserSession.Refuse(Errno.EINVAL, "a ring is enabled by 1 and disabled by 0", out fault);
                ring.IsEnabled = value == 1;
                if (!ring.IsEnabled)
                    Stop((int)index);
                break;
        }

        return TryRun((int)index, out fault);
    }

    internal bool TrySetAddress(in VhostUserMessage message, out Fault fault)
    {
        var asked = message.Read<VhostUserRingAddress>();
        var index = asked.Index;
        if (!TryFind(index, out var ring, out fault))
            return false;
        // Bit 0 asks for a dirty log of the used ring, which comes with a feature that is not offered.
        if (asked.Flags != 0)
            return VhostUserSession.Refuse(Errno.EINVAL, "a ring flag was set that comes with no feature offered", out fault);
        var addresses = (new UserAddress(asked.Descriptors), new UserAddress(asked.Available), new UserAddress(asked.Used));
        if (!TryLocate(addresses, out _))
        {
            // QEMU whose guest memory is its own has no region to send, and says nothing of it.
            if (memory.Regions.Count == 0)
                session.SayUnshared();
            return VhostUserSession.Refuse(Errno.EFAULT, "a ring address lies in no shared region", out fault);
        }

        Stop((int)index);
        var before = ring.Addresses;
        ring.Addresses = addresses;
        if (TryRun((int)index, out fault))
            return true;
        // The device may refuse a place that lies in a region. Nothing changes then: the ring goes on where it was.
        ring.Addresses = before;
        TryRun((int)index, out _);
        return false;
    }

    /// <summary>Stops a ring for good; it is started by its next kick's descriptor.</summary>
    /// <param name="index">The ring.</param>
    /// <param name="next">Where it goes on.</param>
    /// <param name="fault">EINVAL: no such ring.</param>
    internal bool TryEnd(uint index, out QueueState next, out Fault fault)
    {
        next = default;
        if (!TryFind(index, out var ring, out fault))
            return false;
        Stop((int)index);
        device.SetQueueKick((int)index, null);
        ring.Kick?.Dispose();
        ring.Kick = null;
        ring.IsStarted = false;
        next = ring.Next == default ? QueueState.Beginning(session.IsPacked) : ring.Next;
        return true;
    }

    internal bool TrySetEventFd(in VhostUserMessage message, out Fault fault)
    {
        var index = message.Number & 0xff;
        if ((message.Number & ~(VhostUserProtocol.NoDescriptorFlag | 0xff)) != 0)
            return VhostUserSession.Refuse(Errno.EINVAL, "unknown bits beside the ring index", out fault);
        if (!TryFind(index, out var ring, out fault))
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
                device.SetQueueKick((int)index, eventFd);
                break;
            case VhostUserRequest.SET_VRING_CALL:
                old = ring.Call;
                ring.Call = eventFd;
                device.SetQueueCall((int)index, eventFd);
                // A notification may have been lost with the old one; a spurious one is harmless.
                eventFd?.Signal();
                break;
            default:
                old = ring.Error;
                ring.Error = eventFd;
                device.SetQueueError((int)index, eventFd);
                break;
        }

        old?.Dispose();
        return TryRun((int)index, out fault);
    }

    internal bool TryRunAll(out Fault fault)
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
            return VhostUserSession.Refuse(Errno.EFAULT, "a ring address lies in no shared region", out fault);
        // A front end need not send SET_FEATURES before its rings; it then has none.
        if (!session.HasFeatures && !session.TrySetFeatures(VhostUserProtocol.VHOST_USER_F_PROTOCOL_FEATURES, out fault))
            return false;
        if (ring.Applied is not null)
            return true;
        var started = device.TrySetQueueSize(index, ring.Size, out fault) &&
            device.TrySetQueueAddress(index, place.Descriptors, place.Available, place.Used, out fault) &&
            device.TrySetQueueState(index, ring.Begin, out fault) &&
            device.TrySetStatus(VhostUserSession.StatusSettled | VirtioStatus.DRIVER_OK, out fault) &&
            device.TrySetQueueReady(index, true, out fault);
        if (started)
            ring.Applied = place;
        return started;
    }

    private void Stop(int index)
    {
        var ring = _rings[index];
        if (ring.Applied is null)
            return;
        device.TrySetQueueReady(index, false, out _);
        ring.SetBase(device.GetQueueState(index));
        ring.Applied = null;
    }

    private bool TryLocate(
        (UserAddress Descriptors, UserAddress Available, UserAddress Used)? asked, out (Iova Descriptors, Iova Available, Iova Used) place)
    {
        place = default;
        if (asked is not { } addresses || !memory.TryToGuest(addresses.Descriptors, out var descriptors) ||
            !memory.TryToGuest(addresses.Available, out var available) || !memory.TryToGuest(addresses.Used, out var used))
            return false;
        place = (new Iova(descriptors.Value), new Iova(available.Value), new Iova(used.Value));
        return true;
    }
}
