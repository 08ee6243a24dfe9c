using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;

namespace Virtbus.Tests.Guest.Module;

/// <summary>A disk of the block subsystem: all of it is read, a part of it written, several requests at once.</summary>
internal sealed class Disk : IDisposable
{
    private const int Depth = 8;
    private const int Piece = 64 * 1024;
    private const int PartAt = 1024 * 1024;
    private const int PartLength = 1024 * 1024;

    private readonly BlockUser _user;
    private readonly IBlockChannel _channel;
    private readonly AlignedBuffer _memory = new(Depth * Piece, 4096);
    private readonly BlockRequest[] _requests = [.. Enumerable.Range(0, Depth).Select(static i => new BlockRequest(i))];

    internal Disk(BlockDevice disk)
    {
        _user = disk.Open("real_driver");
        _channel = _user.OpenChannel(Depth);
    }

    /// <summary>Says what is on the disk, turns the bits of its second MiB, and says it again.</summary>
    internal void Run(string rings)
    {
        Console.WriteLine($"blk {rings} {_user.Info.Capacity} bytes {Sum()}");
        var part = new byte[PartLength];
        Move(BlockOperation.Read, PartAt, part);
        for (var i = 0; i < part.Length; i++)
            part[i] = (byte)~part[i];
        Move(BlockOperation.Write, PartAt, part);
        if (_channel.Do(new BlockRequest { Operation = BlockOperation.Flush }) is var error and not Errno.None)
            throw new VirtbusException(error, "a flush failed");
        Console.WriteLine($"blk {rings} changed {Sum()}");
    }

    public void Dispose()
    {
        _channel.Dispose();
        _user.Dispose();
        _memory.Dispose();
    }

    private string Sum()
    {
        var all = new byte[_user.Info.Capacity];
        Move(BlockOperation.Read, 0, all);
        return Checksum.Of(all);
    }

    private void Move(BlockOperation operation, long offset, Span<byte> bytes)
    {
        for (var done = 0; done < bytes.Length; done += Depth * Piece)
        {
            var pieces = Math.Min(Depth, (bytes.Length - done) / Piece);
            var turn = bytes.Slice(done, pieces * Piece);
            var memory = _memory.Take(_memory.Length).AsSpan()[..turn.Length];
            if (operation == BlockOperation.Write)
                turn.CopyTo(memory);
            Move(operation, offset + done, pieces);
            if (operation == BlockOperation.Read)
                memory.CopyTo(turn);
        }
    }

    private void Move(BlockOperation operation, long offset, int pieces)
    {
        var left = 0;
        for (var i = 0; i < pieces; i++)
        {
            var request = _requests[i];
            var runs = GC.AllocateArray<IoVector>(1, pinned: true);
            runs[0] = new IoVector(_memory.Take(_memory.Length).Address + (i * Piece), Piece);
            (request.Operation, request.Offset, request.Length) = (operation, offset + (i * Piece), Piece);
            request.SetRuns(runs);
            if (!_channel.Submit(request))
                left++;
        }

        _channel.Commit();
        while (left > 0)
        {
            if (_channel.TryReap() is null)
                _channel.Wait(-1);
            else
                left--;
        }

        foreach (var request in _requests.AsSpan(0, pieces))
        {
            if (request.Result != Errno.None)
                throw new VirtbusException(request.Result, $"a {operation} at {request.Offset} failed");
        }
    }
}
