using System.Numerics;

namespace Virtbus.Ethernet;

/// <summary>
/// Which port an address was seen at. Look-ups take no lock: an entry's key never changes, entries are only ever added to an array, and what is
/// forgotten goes with the array, when another one takes its place.
/// </summary>
internal sealed class AddressTable
{
    /// <summary>How many addresses it holds.</summary>
    public const int MaxAddresses = EthernetSwitch.MaxAddresses;

    private const int FirstSize = 64;
    private readonly Lock _lock = new();
    private readonly long _second;
    // Guests choose the addresses; which of them meet in the array is not theirs to choose.
    private readonly ulong _factor = (ulong)Random.Shared.NextInt64() | 1;
    private Entry?[] _entries = new Entry?[FirstSize];
    private int _count;
    private long _nextSweep;
    private long _maxAge;

    /// <summary>Makes an empty one.</summary>
    /// <param name="frequency">Units of time in a second.</param>
    public AddressTable(long frequency) => _second = frequency;

    /// <summary>How long an address is known that is not seen again, in units of time.</summary>
    public long MaxAge
    {
        get => Volatile.Read(ref _maxAge);
        set
        {
            lock (_lock)
            {
                Volatile.Write(ref _maxAge, value);
                _nextSweep = 0;
            }
        }
    }

    /// <summary>Looks an address up. Any thread.</summary>
    /// <returns>The port; null for an address that is not known.</returns>
    public SwitchPort? Find(ulong address, ushort vlan, long now)
    {
        var entry = Find(Volatile.Read(ref _entries), Key(address, vlan));
        if (entry is null || now - Volatile.Read(ref entry.Seen) > MaxAge)
            return null;
        var port = Volatile.Read(ref entry.Port);
        return port.IsGone ? null : port;
    }

    /// <summary>Notes where an address was seen. Any thread; takes the lock for one that is new or has moved only.</summary>
    public void Learn(ulong address, ushort vlan, SwitchPort port, long now)
    {
        var key = Key(address, vlan);
        var entry = Find(Volatile.Read(ref _entries), key);
        if (entry is null)
        {
            Add(key, port, now);
            return;
        }
        if (Volatile.Read(ref entry.Port) != port && !TryMove(entry, port, now))
            return;
        // Written when it changes only: threads on several processors read it.
        if (now - Volatile.Read(ref entry.Seen) >= _second)
            Volatile.Write(ref entry.Seen, now);
    }

    /// <summary>Forgets what was seen at ports that are gone.</summary>
    public void ForgetGone()
    {
        lock (_lock)
            Rebuild(static (entry, _) => !entry.Port.IsGone, 0);
    }

    /// <summary>Forgets what was seen at a port.</summary>
    public void Forget(SwitchPort port)
    {
        lock (_lock)
        {
            if (port.Learned != 0)
                Rebuild((entry, _) => Volatile.Read(ref entry.Port) != port, 0);
        }
    }

    /// <summary>What an entry is found by.</summary>
    internal static ulong Key(ulong address, ushort vlan) => address | ((ulong)vlan << 48);

    private Entry? Find(Entry?[] entries, ulong key)
    {
        for (var i = Slot(entries, key); ; i++)
        {
            var entry = Volatile.Read(ref entries[i & (entries.Length - 1)]);
            if (entry is null || entry.Key == key)
                return entry;
        }
    }

    private int Slot(Entry?[] entries, ulong key) => (int)((key * _factor) >> (64 - BitOperations.Log2((uint)entries.Length)));

    private static bool HasAllOf(SwitchPort port) => port.Learned >= port.MaxAddresses;

    private bool IsFullFor(SwitchPort port) => Volatile.Read(ref _count) == MaxAddresses || HasAllOf(port);

    private void Add(ulong key, SwitchPort port, long now)
    {
        // A table that is full costs no lock, whatever addresses a guest makes up.
        if (IsFullFor(port) && now < Volatile.Read(ref _nextSweep))
            return;
        lock (_lock)
            AddLocked(key, port, now);
    }

    private void AddLocked(ulong key, SwitchPort port, long now)
    {
        if (port.IsGone || Find(_entries, key) is not null)
            return;
        if (IsFullFor(port))
            Sweep(now);
        if (IsFullFor(port))
            return;
        if ((_count + 1) * 2 > _entries.Length)
            Rebuild(static (_, _) => true, 0);
        Place(_entries, new Entry(key, port, now));
        port.Learned++;
        Volatile.Write(ref _count, _count + 1);
    }

    // A port that has as many as it may gets none of another's either.
    private bool TryMove(Entry entry, SwitchPort port, long now)
    {
        if (HasAllOf(port))
            return false;
        lock (_lock)
        {
            if (Find(_entries, entry.Key) != entry)
            {
                // It was forgotten meanwhile, with the port that it was at.
                AddLocked(entry.Key, port, now);
                return false;
            }

            if (port.IsGone || HasAllOf(port))
                return false;
            var before = Volatile.Read(ref entry.Port);
            before.Learned--;
            port.Learned++;
            Volatile.Write(ref entry.Port, port);
            return true;
        }
    }

    private void Sweep(long now)
    {
        if (now < _nextSweep)
            return;
        Rebuild((entry, oldest) => Volatile.Read(ref entry.Seen) >= oldest, now - _maxAge);
        // Nothing is old enough before the oldest of them is.
        var next = long.MaxValue;
        foreach (var entry in _entries)
        {
            if (entry is not null)
                next = Math.Min(next, Volatile.Read(ref entry.Seen));
        }
        Volatile.Write(ref _nextSweep, next + _maxAge + 1);
    }

    private void Rebuild(Func<Entry, long, bool> stays, long oldest)
    {
        Entry[] kept = [.. _entries.Where(e => e is not null && stays(e, oldest)).Select(e => e!)];
        // Half of it stays free, so that few entries are looked at for an address.
        var entries = new Entry?[Math.Max(FirstSize, (int)BitOperations.RoundUpToPowerOf2((uint)(kept.Length + 1) * 2))];
        foreach (var entry in _entries)
        {
            if (entry is not null)
                Volatile.Read(ref entry.Port).Learned = 0;
        }
        foreach (var entry in kept)
        {
            Place(entries, entry);
            Volatile.Read(ref entry.Port).Learned++;
        }
        Volatile.Write(ref _entries, entries);
        Volatile.Write(ref _count, kept.Length);
    }

    private void Place(Entry?[] entries, Entry entry)
    {
        var i = Slot(entries, entry.Key);
        while (entries[i & (entries.Length - 1)] is not null)
            i++;
        Volatile.Write(ref entries[i & (entries.Length - 1)], entry);
    }

    private sealed class Entry(ulong key, SwitchPort port, long seen)
    {
        public readonly ulong Key = key;
        public SwitchPort Port = port;
        public long Seen = seen;
    }
}
