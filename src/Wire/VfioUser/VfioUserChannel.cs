using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>
/// One socket on which both sides may send requests. Whoever waits for something reads for all: its own reply may come behind requests of
/// the peer and replies for others, which it puts where they belong. So nobody waits for a thread that is busy, and a reply needs no
/// change of threads.
/// </summary>
/// <remarks>
/// Requests of the peer are taken in two ways. A client gives a handler, which is called by whoever reads. A server takes them one by one
/// with <see cref="TryTake"/> on its own thread; whoever else reads meanwhile leaves them where they are, in their order.
/// As long as only one thread uses the channel (<see cref="Share"/> was not called) nothing is locked but the sending.
/// Who reads, who waits and who gives up go by one gate, and are understood together only; which reply belongs to which call, and how a message goes
/// out, are objects of their own.
/// </remarks>
internal sealed class VfioUserChannel : IDisposable
{
    // Who waits for a reader looks again after that: other things wait for it too.
    private const int PollMilliseconds = 1000;

    private readonly object _gate = new();
    private readonly UnixStream _stream;
    private readonly VfioUserInbox _inbox;
    private readonly List<FileDescriptor> _received = [];
    private readonly VfioUserCalls _calls = new();
    private readonly VfioUserSender _sender;
    private readonly Stack<VfioUserCall> _spare = new();
    private readonly VfioUserCommandHandler? _handler;
    private readonly int _timeout;
    private VfioUserCall? _oneSpare;
    private EventFd? _wake;
    private volatile bool _shared;
    private volatile bool _closed;
    private bool _reading;
    private int _sleepers;
    private VfioUserPace _pace = new(TimeProvider.System);
    private long _answerBy;
    private Fault _end = new(Errno.ECONNRESET, "the connection is closed");

    /// <summary>Takes a connection over.</summary>
    /// <param name="stream">The connection; it belongs to the channel from here on.</param>
    /// <param name="headerByHeader">Whether each header is received on its own.</param>
    /// <param name="timeout">How long the peer may leave no room for what is sent to it, in milliseconds; the connection ends then.</param>
    /// <param name="handler">Answers requests of the peer, called by whoever reads; null when they are taken with <see cref="TryTake"/>.</param>
    internal VfioUserChannel(UnixStream stream, bool headerByHeader, TimeSpan timeout, VfioUserCommandHandler? handler = null)
    {
        _stream = stream;
        _stream.TryMakeBlocking();
        _inbox = new VfioUserInbox(headerByHeader);
        _timeout = (int)Math.Min(timeout.TotalMilliseconds, int.MaxValue);
        _sender = new VfioUserSender(this, stream, _timeout);
        _handler = handler;
        _shared = handler is not null;
    }

    /// <summary>Makes one for requests of this side and the peer's replies: the peer may send nothing else there, since nobody would take it.</summary>
    /// <param name="stream">The connection; it belongs to the channel from here on.</param>
    /// <param name="timeout">As for the constructor.</param>
    internal static VfioUserChannel ForReplies(UnixStream stream, TimeSpan timeout)
    {
        var channel = new VfioUserChannel(stream, headerByHeader: false, timeout, static (in VfioUserMessage _, out Fault fault) =>
            VfioUserProtocol.Refuse(Errno.EPROTO, "a request came on the socket that is for replies", out fault));
        channel._wake = new EventFd();
        return channel;
    }

    /// <summary>The socket, to wait on.</summary>
    internal FileDescriptor Descriptor => _stream.Descriptor;

    /// <summary>Whether it is over: by <see cref="Close"/>, or because the peer is gone or sent what is no message.</summary>
    internal bool IsClosed => _closed;

    /// <summary>Why it is over; ECONNRESET when the peer simply went.</summary>
    internal Fault End => _end;

    /// <summary>Whether the peer was seen to put descriptors elsewhere than messages sent one by one have them.</summary>
    internal bool IsHeaderByHeader => _inbox.IsHeaderByHeader;

    /// <summary>Lets other threads make calls from here on. Called by the thread that was alone until now, outside of a receive.</summary>
    internal void Share()
    {
        if (_shared)
            return;
        _wake = new EventFd();
        _shared = true;
    }

    /// <summary>Sends whole messages, waiting for room as long as the channel's timeout. A peer that makes none in that time loses the connection.</summary>
    /// <param name="bytes">One message, or several without descriptors.</param>
    /// <param name="descriptors">The descriptors of the only message.</param>
    /// <returns>False when the connection is over.</returns>
    internal bool TrySend(ReadOnlySpan<byte> bytes, ReadOnlySpan<FileDescriptor> descriptors) =>
        _sender.TrySend(bytes, descriptors, long.MaxValue, _shared);

    /// <summary>For the handler: sends an answer, waiting for room no longer than whoever reads may still wait for something else.</summary>
    /// <param name="bytes">One message.</param>
    /// <returns>False when the connection is over.</returns>
    internal bool TryAnswer(ReadOnlySpan<byte> bytes) => _sender.TrySend(bytes, default, _answerBy, _shared);

    /// <summary>Takes the peer's next request; waits for it. Only on a channel without handler, by one thread.</summary>
    /// <param name="outbox">Replies that are not sent yet; they are before anything is waited for.</param>
    /// <param name="message">The request, valid until the next call.</param>
    /// <returns>False when the connection is over; <see cref="End"/> says why.</returns>
    internal bool TryTake(VfioUserOutbox outbox, out VfioUserMessage message)
    {
        while (true)
        {
            if (_closed)
            {
                message = default;
                return false;
            }

            var locked = Enter();
            var found = TryTakeInside(out message, out var fault);
            Exit(locked);
            if (found)
            {
                _pace.Took();
                return true;
            }

            if (fault != Fault.None)
            {
                Close(fault);
                return false;
            }

            if (!locked && _pace.BeforeAnswers())
            {
                if (TryReceive(locked, 0, out fault))
                    continue;
                // Who asks and closes only its own direction waits for the answers still.
                outbox.TryFlush();
                Close(fault);
                return false;
            }

            if (!outbox.TryFlush() || _closed)
                return false;
            if (!locked)
                _pace.BeforeWait();
            locked = Enter();
            // Somebody else may have received while the answers were sent, and be through: nothing more need come behind what lies there.
            if (locked && _inbox.HasMessage)
            {
                Exit(locked);
                continue;
            }

            if (_reading)
            {
                // Somebody else reads and will say when something came. Only with sharing, so the gate is held.
                Sleep(Timeout.Infinite);
                Exit(locked);
                continue;
            }

            var goesOn = TryReceive(locked, Timeout.Infinite, out fault);
            Exit(locked);
            if (!goesOn)
            {
                Close(fault);
                return false;
            }
        }
    }

    /// <summary>Makes a call, which goes back by <see cref="Return"/>.</summary>
    internal VfioUserCall Rent()
    {
        // One is at hand without a lock; more are only used by several threads at once.
        if (Interlocked.Exchange(ref _oneSpare, null) is { } one)
            return one;
        lock (_gate)
        {
            if (_spare.TryPop(out var call))
                return call;
        }

        return new VfioUserCall();
    }

    internal void Return(VfioUserCall call)
    {
        if (call.Descriptors.Count > 0)
            VfioUserInbox.CloseAll(call.Descriptors);
        if (Interlocked.CompareExchange(ref _oneSpare, call, null) is null)
            return;
        lock (_gate)
            _spare.Push(call);
    }

    /// <summary>Gives a call its ids. Its requests may then be sent, and <see cref="TryWait(VfioUserCall, int, out Fault)"/> waits for the replies.</summary>
    /// <param name="call">The call.</param>
    /// <param name="command">The command of all its requests.</param>
    /// <param name="count">How many requests.</param>
    /// <param name="fault">ENOBUFS: too many are under way; ECONNRESET.</param>
    internal bool TryBegin(VfioUserCall call, VfioUserCommand command, int count, out Fault fault)
    {
        lock (_gate)
        {
            if (_closed)
            {
                fault = _end;
                return false;
            }

            return _calls.TryAdd(call, command, count, out fault);
        }
    }

    /// <summary>
    /// Waits until all replies of a call are there, reading for all meanwhile when nobody else does. What the peer asks for meanwhile does not
    /// make it longer.
    /// </summary>
    /// <param name="call">The call.</param>
    /// <param name="milliseconds">How long at most, from its begin.</param>
    /// <param name="fault">What the peer answered; ETIMEDOUT; ECONNRESET; EPROTO.</param>
    internal bool TryWait(VfioUserCall call, int milliseconds, out Fault fault) => TryWait(call, milliseconds, isWatched: false, out fault);

    /// <summary>
    /// As the other one, for the channel's timeout, after which the connection ends. Somebody else closes the channel by <see cref="OldestCall"/>, so
    /// that the receive needs no clock.
    /// </summary>
    internal bool TryWait(VfioUserCall call, out Fault fault) => TryWait(call, _timeout, isWatched: true, out fault);

    private bool TryWait(VfioUserCall call, int milliseconds, bool isWatched, out Fault fault)
    {
        var deadline = call.Since + milliseconds;
        var broken = Fault.None;
        lock (_gate)
        {
            // What another thread received last may lie there still.
            while (call.Outstanding > 0 && !_closed && (_reading || _inbox.IsEmpty || TryDistribute(deadline, out broken)) && call.Outstanding > 0)
            {
                var left = (int)Math.Max(0, deadline - Environment.TickCount64);
                if (left == 0)
                {
                    var late = new Fault(Errno.ETIMEDOUT, "the peer does not answer");
                    _calls.GiveUp(call, late);
                    if (isWatched)
                        Close(late);
                }
                else if (_reading)
                {
                    Sleep(left);
                }
                else if (!TryReceive(locked: true, isWatched ? Timeout.Infinite : left, out broken) || !TryDistribute(deadline, out broken))
                {
                    break;
                }
            }

            if (broken != Fault.None)
                Close(broken);
            if (call.Outstanding > 0)
                _calls.GiveUp(call, _end);
            // Who waits for something else reads on.
            Wake();
            fault = call.Fault;
        }

        return fault == Fault.None;
    }

    /// <summary>
    /// Takes in what is there, without waiting for more, unless another thread reads already: then it waits until that one did. For a thread
    /// that waits on the socket.
    /// </summary>
    /// <param name="deadline">When it has to be over, on the system's tick count.</param>
    internal void Poll(long deadline)
    {
        lock (_gate)
        {
            if (_closed)
                return;
            if (_reading)
            {
                Sleep((int)Math.Clamp(deadline - Environment.TickCount64, 0, PollMilliseconds));
                return;
            }

            if (TryReceive(locked: true, 0, out var fault))
                TryDistribute(deadline, out fault);
            Wake();
            if (fault != Fault.None)
                Close(fault);
        }
    }

    /// <summary>Gives up every call whose addresses lie in a range.</summary>
    /// <param name="start">First address.</param>
    /// <param name="last">Last address.</param>
    /// <param name="reason">What their callers get.</param>
    internal void GiveUp(ulong start, ulong last, Fault reason)
    {
        lock (_gate)
        {
            if (!_calls.GiveUp(start, last, reason))
                return;
            Wake();
            if (_reading)
                _wake?.Signal();
        }
    }

    /// <summary>The time at which the oldest request under way was sent; <see cref="long.MaxValue"/> when none is.</summary>
    internal long OldestCall()
    {
        lock (_gate)
            return _calls.Oldest();
    }

    /// <summary>Ends the connection: whoever waits on it goes on, and every call fails. The first reason counts. Safe from any thread.</summary>
    /// <param name="reason">Why.</param>
    internal void Close(Fault reason)
    {
        lock (_gate)
        {
            if (!_closed)
            {
                _end = reason == Fault.None ? new Fault(Errno.ECONNRESET, "the peer closed the connection") : reason;
                _closed = true;
            }

            Wake();
            _stream.Shutdown();
        }
    }

    /// <summary>Closes the socket and what came with messages that nobody took. Who is in a call on another thread gets ECONNRESET.</summary>
    public void Dispose()
    {
        Close(Fault.None);
        // Whoever reads finds it closed and goes on, and so does whoever sends: then nobody is in a call on the socket.
        lock (_gate)
        {
            while (_reading)
                Sleep(Timeout.Infinite);
            _inbox.Dispose();
            VfioUserInbox.CloseAll(_received);
        }

        _sender.Dispose();
        _wake?.Dispose();
    }

    private bool Enter()
    {
        if (!_shared)
            return false;
        Monitor.Enter(_gate);
        return true;
    }

    private void Exit(bool locked)
    {
        if (locked)
            Monitor.Exit(_gate);
    }

    // With the gate.
    private void Sleep(int milliseconds)
    {
        _sleepers++;
        Monitor.Wait(_gate, milliseconds);
        _sleepers--;
    }

    // With the gate. Without anybody asleep it costs nothing.
    private void Wake()
    {
        if (_sleepers > 0)
            Monitor.PulseAll(_gate);
    }

    private bool TryTakeInside(out VfioUserMessage message, out Fault fault)
    {
        while (_inbox.TryTake(out message, out var wasScanned, out fault))
        {
            if (!message.IsReply)
                return true;
            if (wasScanned)
                continue;
            if (!_calls.TryDeliver(message, out fault))
                break;
            Wake();
        }

        return false;
    }

    /// <summary>
    /// Receives once. Called with the gate when there is sharing; the gate is open while the call waits, and nobody else receives then.
    /// </summary>
    /// <returns>False at the end of the connection; no fault when the peer simply went.</returns>
    private bool TryReceive(bool locked, int milliseconds, out Fault fault)
    {
        if (!_inbox.Prepare(out var buffer, out var offset, out var length))
            return VfioUserProtocol.Refuse(Errno.ENOBUFS, "too much was sent without waiting for answers", out fault);
        _reading = true;
        if (locked)
            Monitor.Exit(_gate);
        var error = Errno.None;
        int count;
        try
        {
            // A blocking receive cannot end by time. Where that is wanted, the wait is a call of its own.
            if (milliseconds <= 0 || Polling.Wait(_stream.Descriptor, forWriting: false, _wake, milliseconds))
                count = _stream.Receive(buffer.AsSpan(offset, length), _received, milliseconds < 0, out error);
            else
                (count, error) = (-1, Errno.EAGAIN);
        }
        finally
        {
            if (locked)
                Monitor.Enter(_gate);
            _reading = false;
            if (locked)
                Wake();
        }

        if (milliseconds > 0)
            _wake?.TryRead(out _);
        if (count > 0)
            return _inbox.TryCommit(count, _received, out fault);
        VfioUserInbox.CloseAll(_received);
        fault = Fault.None;
        if (count < 0 && error == Errno.EAGAIN)
            return true;
        if (count < 0 && error != Errno.ECONNRESET)
            fault = new Fault(error, error switch
            {
                Errno.EMSGSIZE => "more descriptors came than a message may carry",
                Errno.EMFILE => "more descriptors came than a socket's peers may have open, or than this process has room for",
                _ => "the socket cannot be read",
            });
        else if (_inbox.HasPart)
            fault = new Fault(Errno.EBADMSG, "the stream ended in the middle of a message");
        else
            fault = new Fault(Errno.ECONNRESET, "the peer closed the connection");
        return false;
    }

    // With the gate. At the deadline it leaves the rest to others.
    private bool TryDistribute(long deadline, out Fault fault)
    {
        if (_handler is null)
        {
            while (_inbox.TryScan(out var seen, out fault))
            {
                if (seen.IsReply && !_calls.TryDeliver(seen, out fault))
                    return false;
            }

            return fault == Fault.None;
        }

        fault = Fault.None;
        // A peer that asks without end is not what is waited for.
        while (!_closed && Environment.TickCount64 < deadline && _inbox.TryTake(out var message, out _, out fault))
        {
            if (message.IsReply)
            {
                if (!_calls.TryDeliver(message, out fault))
                    return false;
                continue;
            }

            // The handler may wait for other things. Nobody else takes messages meanwhile, and the order stays what it was.
            _reading = true;
            _answerBy = deadline;
            Monitor.Exit(_gate);
            bool good, hasEnded = false;
            try
            {
                good = _handler(message, out fault);
                hasEnded = true;
            }
            finally
            {
                Monitor.Enter(_gate);
                _reading = false;
                // The memory behind it may be anybody's, and throw: the peer waits for an answer that does not come.
                if (!hasEnded)
                    Close(new Fault(Errno.EIO, "a request of the peer failed on this side"));
                Wake();
            }

            if (!good)
                return false;
        }

        _inbox.Release();
        return fault == Fault.None;
    }
}
