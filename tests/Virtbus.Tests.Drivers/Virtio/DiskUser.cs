using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>Who has a disk open, with one channel; one thread uses it.</summary>
internal sealed class DiskUser : IDisposable
{
    private readonly BlockUser _user;
    private readonly AlignedBuffer _memory;

    internal DiskUser(BlockDevice disk, int depth = 8, int bytes = 1 << 20)
    {
        _user = disk.Open("test");
        Channel = _user.OpenChannel(depth);
        _memory = new AlignedBuffer(bytes, 4096);
    }

    internal IBlockChannel Channel { get; }

    internal nint Address => _memory.Take(1).Address;

    internal BlockInfo Info => _user.Info;

    /// <summary>Makes a request of its own part of the memory.</summary>
    /// <param name="at">Where in the memory.</param>
    /// <param name="lengths">How long the runs are, one behind the other.</param>
    internal BlockRequest Make(BlockOperation operation, long offset, int at, params ReadOnlySpan<int> lengths)
    {
        var runs = GC.AllocateArray<IoVector>(lengths.Length, pinned: true);
        var length = 0;
        for (var i = 0; i < runs.Length; i++)
        {
            runs[i] = new IoVector(_memory.Take(_memory.Length).Address + at + length, (nuint)lengths[i]);
            length += lengths[i];
        }

        var request = new BlockRequest(runs) { Operation = operation, Offset = offset, Length = length, Result = (Errno)(-1) };
        request.SetRuns(runs);
        return request;
    }

    internal Span<byte> Bytes(int at, int length) => _memory.Take(_memory.Length).AsSpan().Slice(at, length);

    internal Errno Do(BlockRequest request) => Channel.Do(request);

    internal Errno Do(BlockOperation operation, long offset = 0, long length = 0, bool isDurable = false, bool mayUnmap = false) =>
        Do(new BlockRequest { Operation = operation, Offset = offset, Length = length, IsDurable = isDurable, MayUnmap = mayUnmap });

    internal Errno Write(long offset, ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(Bytes(0, bytes.Length));
        return Do(Make(BlockOperation.Write, offset, 0, bytes.Length));
    }

    internal byte[] Read(long offset, int length)
    {
        Bytes(0, length).Fill(0xEE);
        Assert.Equal(Errno.None, Do(Make(BlockOperation.Read, offset, 0, length)));
        return Bytes(0, length).ToArray();
    }

    /// <summary>Waits for the next request that ends.</summary>
    internal BlockRequest Reap()
    {
        BlockRequest? request = null;
        Deadline.Until(
            () =>
            {
                request = Channel.TryReap();
                if (request is null)
                    Channel.Wait(20);
                return request is not null;
            },
            "a request's end");
        return request!;
    }

    public void Dispose()
    {
        Channel.Dispose();
        _user.Dispose();
        _memory.Dispose();
    }
}
