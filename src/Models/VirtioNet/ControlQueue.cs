using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Models.VirtioNet;

/// <summary>Commands of the driver (VIRTIO 1.3, 5.1.6.5): u8 class, u8 command, data | u8 ack. On the queue's thread, one after the other.</summary>
internal sealed class ControlQueue(VirtioNetDevice device) : IQueueProcessor
{
    private const byte Ok = 0;
    private const byte Error = 1;
    private const int CommandSize = 2;
    // More has no command that makes sense: two tables of 1,300 addresses.
    private const int MostBytes = 16 << 10;
    private const int SpareRuns = 64;

    private readonly NetCommands _commands = new(device);
    private byte[] _data = [];
    private DescriptorChain _chain = new(1);
    private DeviceRing _ring = null!;
    private ulong _requests;
    private ulong _bytes;
    private ulong _errors;

    public (ulong Requests, ulong Bytes, ulong Errors) Counters => (Volatile.Read(ref _requests), Volatile.Read(ref _bytes), Volatile.Read(ref _errors));

    public void Start(DeviceRing ring, VirtioFeatures features)
    {
        _ring = ring;
        device.Settings.Settle(features);
        _commands.Features = features;
        _commands.Generation = device.Settings.Generation;
        if (_chain.Capacity < ring.Size + SpareRuns)
            _chain = new DescriptorChain(ring.Size + SpareRuns);
        if (_data.Length == 0)
            _data = new byte[MostBytes];
    }

    public bool Process(out Fault fault)
    {
        if (!_ring.TryTake(_chain, out fault))
            return false;
        Span<byte> command = stackalloc byte[CommandSize];
        if (!_chain.TryTakeReadable(command) || !_chain.TryReserveTrailer())
        {
            _ring.PutBack(new ReadOnlySpan<DescriptorChain>(in _chain));
            fault = new Fault(Errno.EPROTO, "a command has no class or no room for its answer");
            return false;
        }

        var isDone = false;
        if (_chain.ReadableLength <= MostBytes)
        {
            var data = _data.AsSpan(0, (int)_chain.ReadableLength);
            _chain.TryTakeReadable(data);
            _bytes += (ulong)data.Length;
            isDone = _commands.TryDo(command[0], command[1], data);
        }

        _requests++;
        if (!isDone)
            _errors++;
        _chain.WriteTrailer(isDone ? Ok : Error);
        _ring.Complete(_chain, 1);
        return true;
    }

    public void Drain()
    {
    }

    public void Dispose()
    {
    }
}
