using System.Diagnostics.CodeAnalysis;
using Virtbus.Buses.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Admin;
using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>
/// The administration queue (VIRTIO 1.4, 2.13): several commands at once, each on the thread that asks, which takes answers for the others too. A device that
/// does not answer in time has the queue broken; what it has not answered stays its memory until it is reset.
/// </summary>
internal sealed class VirtioPciAdminQueue : IDisposable
{
    /// <summary>How many commands are with the device at once.</summary>
    internal const int MostCommands = 16;
    /// <summary>Descriptors for them.</summary>
    internal const int Depth = MostCommands * Parts;
    /// <summary>The most bytes of a command's data, and of its result.</summary>
    internal const int MostBytes = 1 << 20;
    /// <summary>How often a command is given that the device wants again (EAGAIN), while it is not older than <see cref="Patience"/>.</summary>
    internal const int MostTries = 100;
    /// <summary>How long an answer is waited for.</summary>
    internal static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);

    private const int Parts = 2;
    // Of a command's place, for the command, and as many for the answer.
    private const int HalfSize = 256;
    private static readonly Fault WasReset = new(Errno.EIO, "the device was reset");
    private static readonly Fault NoAnswer = new(Errno.ETIMEDOUT, "the device does not answer an administration command");

    private readonly IommuGroup _group;
    private readonly TimeProvider _time;
    private readonly DmaBuffer _memory;
    // One thread at a time is in the ring. A notification waits for the device, so no handler of an interrupt takes it.
    private readonly Lock _ring = new();
    // What became of whom. Held for a moment.
    private readonly VirtioPciAdminMonitor _news;
    private readonly UseGate _users = new();
    private Place[] _places = [];
    private Place?[] _byName = [];
    private VirtioQueue? _queue;
    private Fault _end;
    private long _version;

    /// <summary>Takes memory for commands.</summary>
    /// <exception cref="VirtbusException">ENOMEM, EPERM: no memory that the device reaches.</exception>
    internal VirtioPciAdminQueue(IommuGroup group, TimeProvider time, VirtioPciAdminMonitor? news = null)
    {
        (_group, _time, _news) = (group, time, news ?? new VirtioPciAdminMonitor());
        if (!group.TryAllocate(MostCommands * 2 * HalfSize, out var memory, out var fault))
            throw new VirtbusException(fault.Errno, $"No memory for administration commands: {fault.Message}.");
        _memory = memory!;
    }

    /// <summary>The ring; null before <see cref="Attach"/>.</summary>
    internal VirtioQueue? Queue => _queue;

    /// <summary>Whether it takes no command any more.</summary>
    internal bool IsOver
    {
        get
        {
            lock (_news)
                return !IsOpen(out _);
        }
    }

    /// <summary>Takes the ring, which is its own from here on.</summary>
    /// <exception cref="VirtbusException">EINVAL: it has no room for one command.</exception>
    internal void Attach(VirtioQueue queue)
    {
        _queue = queue;
        if (queue.Size < Parts)
            throw new VirtbusException(Errno.EINVAL, $"Administration queue {queue.Index} has {queue.Size} descriptors, and a command needs {Parts}.");
        _byName = new Place?[queue.Size];
        _places = new Place[Math.Min(MostCommands, queue.Size / Parts)];
        for (var i = 0; i < _places.Length; i++)
            _places[i] = new Place(this, (ulong)(i * 2 * HalfSize));
    }

    /// <summary>The device interrupted, or the ring broke. On any thread.</summary>
    internal void OnUsed(VirtioQueue queue) => Tell();

    /// <summary>The device broke the ring, failed or is gone: nobody waits any more. On any thread.</summary>
    internal void OnBroken(Fault fault) => End(fault.Errno == Errno.ENODEV ? fault : new Fault(Errno.EIO, fault.Message));

    /// <summary>The device is about to be reset: it gets no command any more.</summary>
    internal void Shut() => _users.Shut();

    /// <summary>The device was reset: what was with it ends.</summary>
    internal void EndAll() => End(WasReset);

    /// <summary>Executes a command.</summary>
    /// <param name="command">What it begins with.</param>
    /// <param name="head">Its data.</param>
    /// <param name="body">More of it.</param>
    /// <param name="result">Where the result goes; zeros where the device says nothing, or refuses.</param>
    /// <param name="written">Bytes of it that the device wrote.</param>
    /// <param name="fault">EMSGSIZE, EIO, ENODEV, ETIMEDOUT, ENOMEM, or the device's status.</param>
    internal bool TryExecute(in AdminCommand command, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, Span<byte> result, out int written, out Fault fault)
    {
        written = 0;
        result.Clear();
        if ((long)head.Length + body.Length > MostBytes || result.Length > MostBytes)
        {
            fault = new Fault(Errno.EMSGSIZE, "an administration command has no room for that much");
            return false;
        }

        if (!_users.TryEnter())
        {
            lock (_news)
                _ = IsOpen(out fault);
            return false;
        }

        try
        {
            return TryTakePlace(out var place, out fault) && TryExecute(place, command, head, body, result, out written, out fault);
        }
        finally
        {
            _users.Leave();
        }
    }

    /// <summary>The device is reset or gone: who waits goes out, and the memory is free.</summary>
    public void Dispose()
    {
        Shut();
        EndAll();
        _news.Close(_users);
        _queue?.Dispose();
        foreach (var place in _places)
            place.Dispose();
        _memory.Dispose();
    }

    private bool TryExecute(
        Place place, in AdminCommand command, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body, Span<byte> result, out int written, out Fault fault)
    {
        written = 0;
        try
        {
            var length = AdminCommand.Size + head.Length + body.Length;
            var answerLength = AdminAnswer.Size + result.Length;
            if (!place.TryFit(_group, length, answerLength, out fault))
                return false;
            var first = _time.GetTimestamp();
            var spinner = default(SpinWait);
            for (var tries = 1; ; tries++)
            {
                var bytes = place.Request(length);
                command.Write(bytes);
                head.CopyTo(bytes[AdminCommand.Size..]);
                body.CopyTo(bytes[(AdminCommand.Size + head.Length)..]);
                // What the device leaves out is zero (2.13), and no answer to somebody else, though it says that it wrote it.
                var there = place.Answer(answerLength);
                there.Clear();
                if (!TryRun(place, length, answerLength, out var used, out fault))
                    return false;
                var answer = AdminAnswer.Read(there[..Math.Min(used, AdminAnswer.Size)]);
                if (answer.IsOk)
                {
                    written = Math.Max(used - AdminAnswer.Size, 0);
                    there.Slice(AdminAnswer.Size, written).CopyTo(result);
                    return true;
                }

                fault = FaultOf(answer.Status);
                if (fault.Errno != Errno.EAGAIN || tries == MostTries || _time.GetElapsedTime(first) >= Patience)
                    return false;
                spinner.SpinOnce(sleep1Threshold: 20);
            }
        }
        finally
        {
            GiveBack(place);
        }
    }

    private bool TryTakePlace([NotNullWhen(true)] out Place? place, out Fault fault)
    {
        lock (_news)
        {
            // Each that is taken comes back, or the queue ends.
            while (IsOpen(out fault))
            {
                place = Array.Find(_places, static p => !p.IsTaken);
                if (place is not null)
                {
                    place.IsTaken = true;
                    return true;
                }

                _news.Wait();
            }
        }

        place = null;
        return false;
    }

    private void GiveBack(Place place)
    {
        place.Timer.Change(Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
        lock (_news)
        {
            // The device has it.
            if (place.IsRunning)
                return;
        }

        place.Shrink();
        lock (_news)
        {
            place.IsTaken = false;
            _news.Tell();
        }
    }

    private bool TryRun(Place place, int length, int answerLength, out int used, out Fault fault)
    {
        used = 0;
        lock (_news)
        {
            if (!IsOpen(out fault))
                return false;
            (place.IsRunning, place.IsLate, place.Start) = (true, false, _time.GetTimestamp());
        }

        place.Timer.Change(Patience, Timeout.InfiniteTimeSpan);
        if (!TryGive(place, length, answerLength))
        {
            lock (_news)
            {
                place.IsRunning = false;
                // Who breaks the ring says why as the next thing.
                while (IsOpen(out fault) && _queue!.IsBroken)
                    _news.Wait();
                if (fault == Fault.None)
                    fault = WasReset;
            }

            return false;
        }

        return TryAwait(place, out used, out fault);
    }

    private bool TryGive(Place place, int length, int answerLength)
    {
        lock (_ring)
        {
            var name = _users.IsClosed
                ? -1
                : _queue!.Add(new DriverBuffer(place.Address, (uint)length, false), new DriverBuffer(place.AnswerAddress, (uint)answerLength, true));
            if (name < 0)
                return false;
            _byName[name] = place;
            _queue!.Kick();
            return true;
        }
    }

    private bool TryAwait(Place place, out int used, out Fault fault)
    {
        while (true)
        {
            var seen = Volatile.Read(ref _version);
            TakeAnswers();
            lock (_news)
            {
                while (place.IsRunning && !place.IsLate && _end == Fault.None && _version == seen)
                    _news.Wait();
                used = place.Used;
                fault = place.IsRunning ? _end : Fault.None;
                if (!place.IsRunning)
                    return true;
                if (_end != Fault.None)
                    return false;
                if (!place.IsLate)
                    continue;
            }

            fault = NoAnswer;
            _queue!.Break(NoAnswer);
            return false;
        }
    }

    // For all who wait.
    private void TakeAnswers()
    {
        lock (_ring)
        {
            do
            {
                while (_queue!.TryTake(out var name, out var written))
                {
                    lock (_news)
                    {
                        // The ring names what is with the device alone, each once.
                        var place = _byName[name]!;
                        (place.Used, place.IsRunning) = ((int)written, false);
                        _news.Tell();
                    }
                }
            }
            while (_queue.RequestCalls(true));
        }
    }

    private bool IsOpen(out Fault fault)
    {
        fault = _end != Fault.None ? _end : _users.IsClosed ? WasReset : Fault.None;
        return fault == Fault.None;
    }

    private void Tell()
    {
        lock (_news)
        {
            _version++;
            _news.Tell();
        }
    }

    private void End(Fault fault)
    {
        lock (_news)
        {
            if (_end == Fault.None)
                _end = fault;
            _news.Tell();
        }
    }

    private void TellLate(Place place)
    {
        lock (_news)
        {
            if (!place.IsRunning)
                return;
            // A timer that ran out when its command had ended is none of the next one's.
            var left = Patience - _time.GetElapsedTime(place.Start);
            if (left > TimeSpan.Zero)
            {
                place.Timer.Change(left, Timeout.InfiniteTimeSpan);
                return;
            }

            place.IsLate = true;
            _news.Tell();
        }
    }

    private static Fault FaultOf(ushort status) => status switch
    {
        AdminStatus.VIRTIO_ADMIN_STATUS_ENXIO => new Fault(Errno.ENXIO, "the device knows no such object or capability"),
        AdminStatus.VIRTIO_ADMIN_STATUS_EAGAIN => new Fault(Errno.EAGAIN, "the device wants the command again, and again"),
        AdminStatus.VIRTIO_ADMIN_STATUS_ENOMEM => new Fault(Errno.ENOMEM, "the device has no memory for the command, or the answer has no room"),
        AdminStatus.VIRTIO_ADMIN_STATUS_EBUSY => new Fault(Errno.EBUSY, "something depends on what the command would change"),
        AdminStatus.VIRTIO_ADMIN_STATUS_EEXIST => new Fault(Errno.EEXIST, "the device has an object of that number"),
        AdminStatus.VIRTIO_ADMIN_STATUS_ENOSPC => new Fault(Errno.ENOSPC, "the device has no room for one more"),
        _ => new Fault(Errno.EINVAL, "the device finds the command wrong"),
    };

    /// <summary>A command's memory, and how far it is. Guarded by <see cref="_news"/>, but for the memory, which is whose turn it is.</summary>
    private sealed class Place : IDisposable
    {
        private readonly VirtioPciAdminQueue _owner;
        private readonly ulong _at;
        private DmaBuffer? _large;
        private int _answerAt = HalfSize;

        internal Place(VirtioPciAdminQueue owner, ulong at)
        {
            (_owner, _at) = (owner, at);
            Timer = owner._time.CreateTimer(static p => ((Place)p!)._owner.TellLate((Place)p), this, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
        }

        internal ITimer Timer { get; }

        internal bool IsTaken { get; set; }

        internal bool IsRunning { get; set; }

        internal bool IsLate { get; set; }

        internal long Start { get; set; }

        internal int Used { get; set; }

        internal Iova Address => _large?.Address ?? new Iova(_owner._memory.Address.Value + _at);

        internal Iova AnswerAddress => new(Address.Value + (ulong)_answerAt);

        private Span<byte> Bytes => _large is { } large ? large.Span : _owner._memory.Span.Slice((int)_at, 2 * HalfSize);

        /// <summary>Has room for a command, in memory of its own where it is a long one.</summary>
        internal bool TryFit(IommuGroup group, int length, int answerLength, out Fault fault)
        {
            fault = Fault.None;
            if (length <= HalfSize && answerLength <= HalfSize)
                return true;
            var answerAt = (length + HalfSize - 1) / HalfSize * HalfSize;
            if (!group.TryAllocate((ulong)(answerAt + answerLength), out var large, out fault))
                return false;
            (_large, _answerAt) = (large, answerAt);
            return true;
        }

        internal Span<byte> Request(int length) => Bytes[..length];

        internal Span<byte> Answer(int length) => Bytes.Slice(_answerAt, length);

        internal void Shrink()
        {
            _large?.Dispose();
            (_large, _answerAt) = (null, HalfSize);
        }

        public void Dispose()
        {
            Timer.Dispose();
            Shrink();
        }
    }
}
