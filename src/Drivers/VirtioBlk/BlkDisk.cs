using System.Text;
using Virtbus.Block;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;
using static Virtbus.Models.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>One device as a back end: what it says of its disk, its queues, and the channels on them. Any thread.</summary>
internal sealed class BlkDisk : IBlockBackend, ISwitchableCache
{
    // As many as a disk of ours has use for; a device may have more.
    private const int MostQueues = 8;
    // A device that has not answered for so long, in ticks, does not.
    private const int Patience = 6;
    private const int IdBytes = BlockInfo.MaxSerialSize;
    private static readonly TimeSpan Tick = TimeSpan.FromSeconds(5);

    private readonly VirtioBusDevice _device;
    private readonly Lock _lock = new();
    private readonly BlkRing[] _rings;
    // Memory of channels that are open, and of those whose device has something of theirs still.
    private readonly Dictionary<BlkChannel, DmaBuffer> _open = [];
    private readonly Dictionary<BlkChannel, DmaBuffer> _left = [];
    private readonly List<BlkMemory> _leftMemory = [];
    private BlkMemory[] _shared = [];
    private long _lastMemory;
    private ITimer? _timer;
    private BlkConfig _config;
    private int _mostParts = BlkRing.LeastParts;
    private int _ticks;
    private bool _isAsleep;
    private bool _isOver;
    private bool? _wantsWriteback;

    /// <summary>Reads what the device is.</summary>
    /// <exception cref="VirtbusException">It can't be read, or is none that a disk can be.</exception>
    internal BlkDisk(VirtioBusDevice device)
    {
        _device = device;
        if (!BlkConfig.TryRead(device, "", out var config, out var fault))
            throw new VirtbusException(fault.Errno, $"Device {device.Name}: {fault.Message}.");
        _config = config!;
        _rings = new BlkRing[Math.Min(_config.Queues, MostQueues)];
        for (var i = 0; i < _rings.Length; i++)
            _rings[i] = new BlkRing(this);
    }

    public event EventHandler? InfoChanged;

    public string Description => _device.Name;

    public BlockInfo Info => Volatile.Read(ref _config).Info;

    public bool MayBlock => false;

    public bool CanSwitch => _device.Has(VIRTIO_BLK_F_CONFIG_WCE) && _device.Has(VIRTIO_BLK_F_FLUSH);

    internal bool IsGone => _device.IsGone;

    /// <summary>The disk's clock.</summary>
    internal int Ticks => Volatile.Read(ref _ticks);

    /// <summary>The most bytes of a piece whose data is copied.</summary>
    internal int MostCopied => (int)Math.Min(_config.MostSegmentBytes, BlkLayout.CopyBytes);

    internal bool MayUnmap => _config.MayUnmap;

    /// <summary>Whether nothing can be told from the length that the device gives, so that what it may not write is cleared first.</summary>
    internal bool MustClear => _device.IsLegacy;

    /// <summary>Memory of users that the device reaches.</summary>
    internal ReadOnlySpan<BlkMemory> Shared => Volatile.Read(ref _shared);

    /// <summary>The number of the last memory that a user was given.</summary>
    internal long LastMemory => Volatile.Read(ref _lastMemory);

    /// <summary>The most segments of data of a request.</summary>
    internal int MostSegments => Math.Min(_config.MostSegments, _mostParts - BlkRing.LeastParts + 1);

    internal uint MostSegmentBytes => _config.MostSegmentBytes;

    /// <summary>How many requests the device takes at once.</summary>
    internal int Requests { get; private set; }

    /// <summary>Makes the queues.</summary>
    internal void Start()
    {
        var specs = new VirtioQueueSpec[_rings.Length];
        for (var i = 0; i < specs.Length; i++)
            specs[i] = new VirtioQueueSpec($"req.{i}", _rings[i].OnUsed, BlkRing.Depth);
        var queues = _device.CreateQueues(specs);
        if (queues.FirstOrDefault(static q => q.Size < BlkRing.LeastParts) is { } queue)
            throw new VirtbusException(Errno.EINVAL, $"Device {_device.Name} has a queue of {queue.Size} descriptors, and a request takes {BlkRing.LeastParts}.");
        _mostParts = Math.Min(queues.Min(static q => q.Size), BlkLayout.MostParts);
        Requests = queues.Sum(static q => q.Size);
        _device.Ready();
        lock (_lock)
        {
            _isAsleep = false;
            for (var i = 0; i < _rings.Length; i++)
                _rings[i].Attach(queues[i]);
        }
    }

    /// <summary>Lets go of the queues; requests wait for others, and those that are out go out again.</summary>
    internal void Sleep()
    {
        lock (_lock)
        {
            _isAsleep = true;
            foreach (var ring in _rings)
                ring.Detach();
        }
    }

    /// <summary>Nothing reaches the device any more: all that is in work, and comes, fails.</summary>
    internal void Stop(Errno error)
    {
        foreach (var ring in _rings)
            ring.Fail(error);
        lock (_lock)
        {
            _timer?.Dispose();
            _timer = null;
        }
    }

    /// <summary>Asks the device for the disk's serial, as the probe does.</summary>
    /// <param name="patience">How long at most.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="VirtbusException">ETIMEDOUT: it does not answer.</exception>
    internal async Task ReadSerialAsync(TimeSpan patience, CancellationToken cancellationToken)
    {
        var told = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        using var memory = new AlignedBuffer(IdBytes, IdBytes > 16 ? 32 : 16);
        var runs = GC.AllocateArray<IoVector>(1, pinned: true);
        runs[0] = memory.Take(IdBytes);
        var request = new BlockRequest { Operation = BlockOperation.GetId, Length = IdBytes };
        request.SetRuns(runs);
        using var channel = Open(1, () => told.TrySetResult());
        channel.Submit(request);
        channel.Commit();
        if (channel.TryReap() is null)
        {
            try
            {
                await told.Task.WaitAsync(patience, _device.Fabric!.Time, cancellationToken);
            }
            catch (TimeoutException)
            {
                throw new VirtbusException(Errno.ETIMEDOUT, $"Device {_device.Name} does not answer a request. Reset its function, or plug it in anew.");
            }

            channel.TryReap();
        }

        // One that has none says so; what is no text is none.
        var serial = request.Result == Errno.None ? TextOf(memory.Take(IdBytes).AsSpan()) : "";
        Volatile.Write(ref _config, _config with { Info = Info with { Serial = serial } });
    }

    /// <summary>Looks at what the device says of its disk, which it has changed.</summary>
    internal void Refresh()
    {
        lock (_lock)
        {
            // Sizes and cache alone can change (5.2.5.1, 5.2.6.2); what makes no sense is as before.
            if (!BlkConfig.TryRead(_device, Info.Serial, out var config, out _) || config!.Info.BlockSize != Info.BlockSize)
                return;
            if (config.Info.Capacity == Info.Capacity && config.Info.HasWriteCache == Info.HasWriteCache)
                return;
            Volatile.Write(ref _config, _config with { Info = Info with { Capacity = config.Info.Capacity, HasWriteCache = config.Info.HasWriteCache } });
        }

        InfoChanged?.Invoke(this, EventArgs.Empty);
    }

    /// <summary>After a sleep: the cache mode is again what somebody chose, since a reset forgets it.</summary>
    internal void Resume()
    {
        if (_wantsWriteback is { } writeback)
            _device.WriteConfig(WritebackOffset, [writeback ? (byte)1 : (byte)0]);
        Refresh();
    }

    public bool TrySwitch(bool writeback, out Fault fault)
    {
        if (!CanSwitch || _isAsleep)
        {
            fault = CanSwitch ? new Fault(Errno.EAGAIN, "the device sleeps") : new Fault(Errno.EOPNOTSUPP, "the device has one only");
            return false;
        }

        _device.WriteConfig(WritebackOffset, [writeback ? (byte)1 : (byte)0]);
        Refresh();
        fault = Info.HasWriteCache == writeback ? Fault.None : new Fault(Errno.EIO, "the device did not take the cache mode");
        if (fault == Fault.None)
            _wantsWriteback = writeback;
        return fault == Fault.None;
    }

    public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => Open(depth, null);

    public BlockMemory? AllocateMemory(ulong bytes)
    {
        lock (_lock)
        {
            if (_isOver || !_device.TryAllocate(bytes, out var buffer))
                return null;
            var memory = new BlkMemory(buffer!, buffer!.Memory.Take(0, 1).Address, buffer.Address.Value, (nuint)buffer.Size, _lastMemory + 1);
            Volatile.Write(ref _lastMemory, memory.Number);
            _shared = [.. _shared, memory];
            return new BlockMemory(buffer.Memory.Acquire(), () => Free(memory));
        }
    }

    /// <summary>Fills the runs of a request with the serial.</summary>
    internal void AnswerIdentity(BlockRequest request)
    {
        Span<byte> bytes = stackalloc byte[IdBytes];
        bytes.Clear();
        Encoding.ASCII.GetBytes(Info.Serial, bytes);
        foreach (var run in request.Runs)
        {
            var target = run.AsSpan();
            var count = Math.Min(target.Length, bytes.Length);
            bytes[..count].CopyTo(target);
            target[count..].Clear();
            bytes = bytes[count..];
        }

        request.Result = Errno.None;
    }

    /// <summary>A channel is closed.</summary>
    internal void Close(BlkChannel channel)
    {
        lock (_lock)
        {
            channel.Ring.Channels--;
            if (_open.Remove(channel, out var buffer))
                _left[channel] = buffer;
        }

        FreeLeft();
    }

    /// <summary>Frees the memory; the device is reset, or gone.</summary>
    public void Dispose()
    {
        Stop(Errno.ENODEV);
        lock (_lock)
        {
            foreach (var buffer in _open.Values.Concat(_left.Values))
                buffer.Dispose();
            foreach (var memory in _shared.Concat(_leftMemory))
                memory.Buffer.Dispose();
            _open.Clear();
            _left.Clear();
            _leftMemory.Clear();
            _shared = [];
            _isOver = true;
        }
    }

    private BlkChannel Open(int depth, Action? told)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(depth, 1);
        FreeLeft();
        lock (_lock)
        {
            // Who comes late would have memory, and a clock, of a device that is another driver's by now.
            if (_isOver)
                throw new VirtbusException(Errno.ENODEV, $"Device {_device.Name} is gone, or has another driver. Open its disk anew.");
            var ring = _rings.MinBy(static r => (r.IsBroken, r.Channels))!;
            var buffer = _device.Allocate(BlkLayout.BytesFor(depth));
            BlkChannel channel;
            try
            {
                channel = new BlkChannel(this, ring, buffer, depth, told);
            }
            catch
            {
                buffer.Dispose();
                throw;
            }

            _open[channel] = buffer;
            ring.Channels++;
            _timer ??= _device.Fabric!.Time.CreateTimer(static disk => ((BlkDisk)disk!).OnTick(), this, Tick, Tick);
            return channel;
        }
    }

    private void Free(BlkMemory memory)
    {
        lock (_lock)
        {
            if (!_shared.Any(other => other.Number == memory.Number))
                return;
            _shared = [.. _shared.Where(other => other.Number != memory.Number)];
            _leftMemory.Add(memory);
        }

        FreeLeft();
    }

    // What the device has nothing of any more. What it has is no memory for anybody else: an answer that comes late would be written there.
    private void FreeLeft()
    {
        List<DmaBuffer> free = [];
        lock (_lock)
        {
            foreach (var (channel, buffer) in _left)
            {
                if (channel.Ring.Holds(channel))
                    continue;
                _left.Remove(channel);
                free.Add(buffer);
            }

            foreach (var memory in _leftMemory.FindAll(m => !_rings.Any(r => r.Holds(m))))
            {
                _leftMemory.Remove(memory);
                free.Add(memory.Buffer);
            }
        }

        // Waits until no access of the device to it is under way.
        foreach (var buffer in free)
            buffer.Dispose();
    }

    private void OnTick()
    {
        var now = Interlocked.Increment(ref _ticks);
        if (!_isAsleep)
        {
            foreach (var ring in _rings)
                ring.LookAtTime(now, Patience);
            return;
        }

        // It did not come back from its sleep, and its driver is not told: who waits for that waits in vain.
        if (_device.HasFailed)
            Stop(Errno.EIO);
    }

    private static string TextOf(ReadOnlySpan<byte> bytes)
    {
        var end = bytes.IndexOf((byte)0);
        bytes = end < 0 ? bytes : bytes[..end];
        return bytes.ContainsAnyExceptInRange((byte)0x20, (byte)0x7E) ? "" : Encoding.ASCII.GetString(bytes).Trim();
    }
}
