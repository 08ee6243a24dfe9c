using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Virtio.Admin;

/// <summary>A queue of administration commands (VIRTIO 1.4, 2.13), one after the other, on a thread of its own: a command may stop another device's queues.</summary>
internal sealed class AdminQueue(AdminCommands commands) : IQueueProcessor
{
    // What is behind it of a buffer is beyond any command (2.13): it is not read.
    private const int MostBytes = 4 << 20;
    private const int FirstBytes = 4 << 10;
    private const int SpareRuns = 64;

    private byte[] _command = [];
    private byte[] _answer = [];
    private DescriptorChain _chain = new(1);
    private DeviceRing _ring = null!;
    private ulong _requests;
    private ulong _bytes;
    private ulong _errors;

    public bool MayBlock => true;

    public (ulong Requests, ulong Bytes, ulong Errors) Counters => (Volatile.Read(ref _requests), Volatile.Read(ref _bytes), Volatile.Read(ref _errors));

    /// <summary>What its commands do.</summary>
    internal AdminCommands Commands => commands;

    public void Start(DeviceRing ring, VirtioFeatures features)
    {
        _ring = ring;
        if (_chain.Capacity < ring.Size + SpareRuns)
            _chain = new DescriptorChain(ring.Size + SpareRuns);
        if (_command.Length == 0)
            (_command, _answer) = (new byte[FirstBytes], new byte[FirstBytes]);
    }

    public bool Process(out Fault fault)
    {
        if (!_ring.TryTake(_chain, out fault))
            return false;
        // What a command has more of is a driver's state, which is as large as it is.
        var command = Room(ref _command, _chain.ReadableLength);
        var answer = Room(ref _answer, _chain.WritableLength);
        _chain.TryTakeReadable(command);
        var written = commands.Do(command, answer, out var isDone);
        _requests++;
        _bytes += (ulong)command.Length;
        if (!isDone)
            _errors++;
        _ring.Complete(_chain, _chain.Write(answer[..written]));
        return true;
    }

    public void Drain()
    {
    }

    public void Dispose()
    {
    }

    private static Span<byte> Room(ref byte[] bytes, uint length)
    {
        var most = (int)Math.Min(length, MostBytes);
        if (bytes.Length < most)
            bytes = new byte[most];
        return bytes.AsSpan(0, most);
    }
}
