using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>A place in the runs of a request: what is left of a transfer that goes in pieces or was cut short. Runs are never copied or changed.</summary>
internal struct RunCursor
{
    // IOV_MAX: the most runs that one call takes.
    private const int MaxRuns = 1024;
    private readonly IoVectorList _runs;
    private int _index;
    private nuint _taken;

    internal RunCursor(IoVectorList runs)
    {
        _runs = runs;
        Advance(0);
    }

    internal readonly bool IsAtEnd => _index == _runs.Count;

    /// <summary>Whether the place is inside of a run: then the rest of that run goes alone.</summary>
    internal readonly bool IsInside => _taken > 0;

    /// <summary>What is left of the run at the place.</summary>
    internal readonly IoVector Current
    {
        get
        {
            var run = _runs.AsSpan()[_index];
            return new IoVector(run.Address + (nint)_taken, run.Length - _taken);
        }
    }

    /// <summary>The run at the place, from its beginning, and those behind it, as many as one call takes.</summary>
    internal readonly IoVectorList Rest => _runs.Slice(_index, MaxRuns);

    /// <summary>Goes on by some bytes, and over runs that have none.</summary>
    internal void Advance(long bytes)
    {
        var runs = _runs.AsSpan();
        while (_index < runs.Length)
        {
            var left = (long)(runs[_index].Length - _taken);
            if (bytes < left)
            {
                _taken += (nuint)bytes;
                return;
            }

            bytes -= left;
            _index++;
            _taken = 0;
        }
    }

    /// <summary>Copies what comes next into a buffer, without going on; at most its length.</summary>
    internal readonly int Gather(Span<byte> buffer)
    {
        var place = this;
        var copied = 0;
        while (copied < buffer.Length && !place.IsAtEnd)
        {
            var count = (int)Math.Min(place.Current.Length, (nuint)(buffer.Length - copied));
            new IoVector(place.Current.Address, (nuint)count).AsSpan().CopyTo(buffer[copied..]);
            copied += count;
            place.Advance(count);
        }

        return copied;
    }

    /// <summary>Copies a buffer to what comes next, and goes on.</summary>
    internal void Scatter(ReadOnlySpan<byte> buffer)
    {
        while (!buffer.IsEmpty && !IsAtEnd)
        {
            var count = (int)Math.Min(Current.Length, (nuint)buffer.Length);
            buffer[..count].CopyTo(new IoVector(Current.Address, (nuint)count).AsSpan());
            buffer = buffer[count..];
            Advance(count);
        }
    }

    /// <summary>How many bytes are left, at most a number.</summary>
    internal readonly int CountLeft(int most)
    {
        var place = this;
        var left = 0L;
        while (left < most && !place.IsAtEnd)
        {
            var count = (long)place.Current.Length;
            left += count;
            place.Advance(count);
        }

        return (int)Math.Min(left, most);
    }
}
