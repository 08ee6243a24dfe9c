using System.Diagnostics;
using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>The requests of this side that are under way, by their ids. Used under the channel's gate, or without sharing by the one thread there is.</summary>
internal sealed class VfioUserCalls
{
    /// <summary>The most requests under way at once.</summary>
    internal const int MaxCalls = 1024;

    private readonly VfioUserCall?[] _calls = new VfioUserCall?[MaxCalls];
    private int _count;
    private int _givenUp;
    private ushort _nextId;

    /// <summary>Gives a call its ids.</summary>
    /// <param name="call">The call.</param>
    /// <param name="command">The command of all its requests.</param>
    /// <param name="count">How many requests.</param>
    /// <param name="fault">ENOBUFS: too many are under way.</param>
    internal bool TryAdd(VfioUserCall call, VfioUserCommand command, int count, out Fault fault)
    {
        if (_count + count > MaxCalls || !TryFindIds(count, out var first))
            return VfioUserProtocol.Refuse(Errno.ENOBUFS, "too many requests are under way", out fault);
        call.FirstId = first;
        call.Count = call.Outstanding = count;
        call.Command = command;
        call.Fault = Fault.None;
        call.Since = Environment.TickCount64;
        for (var i = 0; i < count; i++)
            _calls[(first + i) % MaxCalls] = call;
        _count += count;
        _nextId = (ushort)(first + count);
        fault = Fault.None;
        return true;
    }

    /// <summary>When the oldest of them was sent; <see cref="long.MaxValue"/> when none is under way.</summary>
    internal long Oldest()
    {
        var oldest = long.MaxValue;
        if (_count == 0)
            return oldest;
        foreach (var call in _calls)
        {
            if (call is { Outstanding: > 0 })
                oldest = Math.Min(oldest, call.Since);
        }

        return oldest;
    }

    /// <summary>Gives up every call whose addresses lie in a range.</summary>
    /// <returns>False when none is under way at all.</returns>
    internal bool GiveUp(ulong start, ulong last, Fault reason)
    {
        if (_count == 0)
            return false;
        foreach (var call in _calls)
        {
            if (call is { Length: > 0, Outstanding: > 0 } && call.Address <= last && start <= call.Address + (call.Length - 1))
                GiveUp(call, reason);
        }

        return true;
    }

    /// <summary>Gives a reply to the call that waits for it.</summary>
    /// <param name="message">The reply.</param>
    /// <param name="fault">EPROTO: it is one to nothing that was asked.</param>
    internal bool TryDeliver(in VfioUserMessage message, out Fault fault)
    {
        fault = Fault.None;
        var call = _calls[message.Id % MaxCalls];
        var index = call is null ? -1 : (ushort)(message.Id - call.FirstId);
        if (call is null || index >= call.Count)
        {
            // The reply to what was given up comes late, and is passed over.
            if (_givenUp > 0)
            {
                _givenUp--;
                return true;
            }

            return VfioUserProtocol.Refuse(Errno.EPROTO, "a reply came to nothing that was asked", out fault);
        }

        if (message.Command != (call.Batch?.CommandOf(index) ?? call.Command))
            return VfioUserProtocol.Refuse(Errno.EPROTO, "a reply has another command than its request", out fault);
        if (message.IsError)
        {
            var error = (Errno)message.ErrorNumber;
            if (call.Fault == Fault.None)
                call.Fault = new Fault(error == Errno.None ? Errno.EIO : error, "the peer refused the request");
            call.Batch?.Fail(index, error == Errno.None ? Errno.EIO : error);
        }
        else if (call.Batch is { } batch)
        {
            if (!batch.TryStore(index, message.Payload) && call.Fault == Fault.None)
                call.Fault = new Fault(Errno.EPROTO, "a reply is shorter than what was asked for");
        }
        else
        {
            call.Store(message.Payload);
            message.TakeDescriptors(call.Descriptors);
        }

        _calls[message.Id % MaxCalls] = null;
        _count--;
        call.Outstanding--;
        return true;
    }

    /// <summary>Waits no more for a call's replies; those that come still are passed over.</summary>
    internal void GiveUp(VfioUserCall call, Fault reason)
    {
        for (var i = 0; i < call.Count; i++)
        {
            ref var slot = ref _calls[(call.FirstId + i) % MaxCalls];
            if (slot != call)
                continue;
            slot = null;
            _count--;
            _givenUp++;
        }

        call.Outstanding = 0;
        if (call.Fault == Fault.None)
            call.Fault = reason;
    }

    // Ids follow each other, so that what is still under way from a full turn before is passed over.
    private bool TryFindIds(int count, out ushort first)
    {
        Debug.Assert(count <= MaxCalls);
        var at = _nextId;
        if (count == 1 && _calls[at % MaxCalls] is null)
        {
            first = at;
            return true;
        }

        var run = 0;
        for (var tries = 0; tries < 2 * MaxCalls; tries++)
        {
            run = _calls[(ushort)(at + tries) % MaxCalls] is null ? run + 1 : 0;
            if (run < count)
                continue;
            first = (ushort)(at + tries - (count - 1));
            return true;
        }

        first = 0;
        return false;
    }
}
