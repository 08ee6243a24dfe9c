using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// One request to a file on its way, with what is left of it. Made once for each place in flight of a channel. It is its channel's thread's, but
/// for the time that a worker or the kernel has it.
/// </summary>
internal sealed class FileTransfer(FileChannel channel, int place)
{
    private const int BounceSize = 128 << 10;
    private RunCursor _cursor;
    private AlignedBuffer? _bounce;
    private bool _isBounced;

    internal FileChannel Channel => channel;

    internal int Place => place;

    internal BlockRequest Request { get; private set; } = null!;

    /// <summary>Byte offset in the file of what is left.</summary>
    internal long Offset { get; private set; }

    internal FileAllocation Allocation { get; private set; }

    /// <summary>The next in the list that it is in: of a worker, of what is done, of what is free.</summary>
    internal FileTransfer? Next { get; set; }

    internal bool IsWrite => Request.Operation == BlockOperation.Write;

    internal bool IsAtEnd => _cursor.IsAtEnd;

    internal void Begin(BlockRequest request, RunCursor cursor, long offset, bool bounce)
    {
        Request = request;
        _cursor = cursor;
        Offset = offset;
        _isBounced = bounce;
        Allocation = request is { Operation: BlockOperation.WriteZeroes, MayUnmap: false } ? FileAllocation.ZeroRange : FileAllocation.PunchHole;
    }

    /// <summary>What moves next: one run, or a list of them when the answer is true.</summary>
    internal bool IsList(out IoVectorList list, out IoVector run)
    {
        list = default;
        run = default;
        if (_isBounced)
        {
            run = Bounce();
            return false;
        }

        if (_cursor.IsInside)
        {
            run = _cursor.Current;
            return false;
        }

        list = _cursor.Rest;
        return true;
    }

    /// <summary>Bytes have moved.</summary>
    internal void Advance(long moved)
    {
        Offset += moved;
        if (_isBounced && !IsWrite)
            _cursor.Scatter(_bounce!.Take((int)moved).AsSpan());
        else
            _cursor.Advance(moved);
    }

    /// <summary>The file system cannot keep the room of what it makes zeros: a hole reads as zeros as well.</summary>
    internal bool TryFallBack()
    {
        if (Allocation != FileAllocation.ZeroRange)
            return false;
        Allocation = FileAllocation.PunchHole;
        return true;
    }

    /// <summary>Does all that is left, waiting as long as that takes.</summary>
    internal Errno Do(FileDescriptor file)
    {
        switch (Request.Operation)
        {
            case BlockOperation.Flush:
                return file.SyncData();
            case BlockOperation.Discard or BlockOperation.WriteZeroes:
                while (true)
                {
                    var error = file.Allocate(Allocation, Request.Offset, Request.Length);
                    if (error != Errno.EOPNOTSUPP || !TryFallBack())
                        return error;
                }

            default:
                return Move(file);
        }
    }

    internal void Free() => _bounce?.Dispose();

    private Errno Move(FileDescriptor file)
    {
        while (!IsAtEnd)
        {
            var runs = IsList(out var list, out var run) ? list.AsSpan() : new ReadOnlySpan<IoVector>(in run);
            var moved = IsWrite ? file.WriteVectors(runs, Offset, out var error, Request.IsDurable) : file.ReadVectors(runs, Offset, out error);
            if (moved < 0)
                return error;
            // A read of nothing: the file was cut shorter than the disk.
            if (moved == 0)
                return Errno.EIO;
            Advance(moved);
        }

        return Errno.None;
    }

    private IoVector Bounce()
    {
        // Made when a guest's buffers are first found not to be aligned, once for each place in flight.
        _bounce ??= new AlignedBuffer(BounceSize, Environment.SystemPageSize);
        return _bounce.Take(IsWrite ? _cursor.Gather(_bounce.Take(BounceSize).AsSpan()) : _cursor.CountLeft(BounceSize));
    }
}
