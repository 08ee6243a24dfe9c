namespace Virtbus.Platform;

/// <summary>
/// A poll thread's epoll set and what each descriptor in it is for. Add and remove from any thread; the poll thread waits and finds, without a lock.
/// </summary>
internal sealed class PollWatches : IDisposable
{
    private const ulong WakeToken = 0;

    private readonly Lock _lock = new();
    private readonly Epoll _epoll = new();
    private readonly Stack<int> _freePlaces = new();
    private PollWatch?[] _watches = new PollWatch?[16];
    private int _places = 1;
    private uint _generation;
    private int _count;

    /// <summary>How many descriptors are in the set, the thread's own one aside.</summary>
    internal int Count => Volatile.Read(ref _count);

    public void Dispose() => _epoll.Dispose();

    /// <summary>Adds what wakes the thread itself; nothing is found for it.</summary>
    internal void AddWake(FileDescriptor descriptor) => _epoll.Add(descriptor, WakeToken, edge: true);

    /// <summary>Waits for tokens of descriptors that are ready.</summary>
    /// <param name="nanoseconds">How long at most; -1 for ever, 0 not at all.</param>
    /// <param name="tokens">Filled with them.</param>
    internal int Wait(Span<ulong> tokens, long nanoseconds) =>
        nanoseconds > 0 ? _epoll.WaitFor(tokens, nanoseconds) : _epoll.Wait(tokens, (int)nanoseconds);

    /// <summary>What a token stands for; null for one of a descriptor that was taken out meanwhile.</summary>
    internal PollWatch? Find(ulong token)
    {
        var watches = Volatile.Read(ref _watches);
        var place = (uint)token;
        return place < (uint)watches.Length && Volatile.Read(ref watches[place]) is { } watch && watch.Token == token ? watch : null;
    }

    /// <summary>Adds a source of a seat.</summary>
    /// <exception cref="VirtbusException">The host takes no more descriptors into the set, or not this kind.</exception>
    internal PollWatch Add(PollSeat seat, in PollSource source)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)source.Bit, 63u, nameof(source));
        lock (_lock)
        {
            var token = ((ulong)++_generation << 32) | (uint)TakePlace();
            // At its place before it is in the set: an edge is told once.
            var watch = Enter(new PollWatch(seat, 1UL << source.Bit, source.Descriptor, token, isOwn: false));
            try
            {
                if (_epoll.TryAdd(source.Descriptor, token, source.IsEdge, out var error))
                    return watch;
                if (error != Errno.EEXIST)
                    throw HostError.Make($"waiting on a descriptor of '{seat.Name}'", error);
                // The set knows a descriptor once. Who gives the same one to two clients gets a duplicate for the second.
                watch = Enter(new PollWatch(seat, watch.Signal, source.Descriptor.Duplicate(), token, isOwn: true));
                _epoll.Add(watch.Descriptor, token, source.IsEdge);
                return watch;
            }
            catch
            {
                Leave(watch);
                if (watch.IsOwn)
                    watch.Descriptor.Dispose();
                throw;
            }
        }
    }

    /// <summary>Takes a descriptor out. An event of it that is on its way finds nobody.</summary>
    internal void Remove(PollWatch watch)
    {
        lock (_lock)
            Leave(watch);
        try
        {
            _epoll.Remove(watch.Descriptor);
        }
        catch (ObjectDisposedException)
        {
            // The set went with the thread, or its owner closed the descriptor: it is out by that.
        }

        if (watch.IsOwn)
            watch.Descriptor.Dispose();
    }

    private PollWatch Enter(PollWatch watch)
    {
        ref var place = ref _watches[(int)(uint)watch.Token];
        if (place is null)
            _count++;
        Volatile.Write(ref place, watch);
        return watch;
    }

    private void Leave(PollWatch watch)
    {
        var place = (int)(uint)watch.Token;
        _watches[place] = null;
        _freePlaces.Push(place);
        _count--;
    }

    private int TakePlace()
    {
        if (_freePlaces.TryPop(out var place))
            return place;
        if (_places == _watches.Length)
        {
            var larger = new PollWatch?[_places * 2];
            _watches.CopyTo(larger, 0);
            Volatile.Write(ref _watches, larger);
        }

        return _places++;
    }
}
