namespace Virtbus.Models.VirtioConsole;

/// <summary>Text on its way to the guest: the line adds, the queue takes. Any thread.</summary>
internal sealed class ConsoleInput
{
    private const int Capacity = 4096;

    private readonly Lock _lock = new();
    private readonly byte[] _bytes = new byte[Capacity];
    private int _begin;
    private int _count;
    private int _users;
    private bool _isRefusing;

    internal bool IsEmpty => Volatile.Read(ref _count) == 0;

    /// <summary>How many users there were before the one of now.</summary>
    internal int Users => Volatile.Read(ref _users);

    /// <summary>Adds as many as there is room for.</summary>
    /// <param name="bytes">The text.</param>
    /// <param name="users">For which user it is; for one that went it vanishes. Null for the one of now.</param>
    internal int Add(ReadOnlySpan<byte> bytes, int? users)
    {
        lock (_lock)
        {
            if (users is { } before && before != _users)
                return bytes.Length;
            var taken = Math.Min(bytes.Length, Capacity - _count);
            for (var i = 0; i < taken; i++)
                _bytes[(_begin + _count + i) % Capacity] = bytes[i];
            _count += taken;
            _isRefusing |= taken < bytes.Length;
            return taken;
        }
    }

    /// <summary>Takes the first bytes, those that lie in one piece.</summary>
    internal int Take(Span<byte> destination)
    {
        lock (_lock)
        {
            var taken = Math.Min(Math.Min(destination.Length, _count), Capacity - _begin);
            _bytes.AsSpan(_begin, taken).CopyTo(destination);
            _begin = (_begin + taken) % Capacity;
            _count -= taken;
            return taken;
        }
    }

    /// <summary>Whether who adds waits for room and there is some.</summary>
    internal bool TakeRefusal()
    {
        lock (_lock)
        {
            var resumes = _isRefusing && _count < Capacity;
            _isRefusing &= !resumes;
            return resumes;
        }
    }

    /// <summary>Another user begins: what was for the one before is gone.</summary>
    internal void BeginUse()
    {
        lock (_lock)
        {
            Volatile.Write(ref _users, _users + 1);
            _count = 0;
        }
    }
}
