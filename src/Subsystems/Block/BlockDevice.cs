using Virtbus.Block;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Block;

/// <summary>
/// A disk of the fabric: what the block subsystem makes when a driver registers one. Users open it, and what they get is a back end of the Block
/// floor, so that any disk can be offered on.
/// </summary>
public sealed class BlockDevice : Device, IOfferedDevice
{
    // In milliseconds.
    private const int TimeToEnd = 1000;
    private static long s_sequence;

    private readonly Lock _lock = new();
    private readonly Lock _infoLock = new();
    private readonly List<BlockUser> _users = [];
    private readonly List<BlockDeviceChannel> _channels = [];
    private readonly BlockStatistics _closed = new();
    // Questions that no channel has: how blocks are kept, for memory.
    private readonly UseGate _questions = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private long _ticksStamp;
    private long _ticks;
    private bool _hasEnded;
    private IDeviceEndpoint? _endpoint;

    internal BlockDevice(BlockSubsystem subsystem, string name, Device? parent, IBlockBackend backend, BlockDeviceOptions options)
        : base(name, parent, bus: null, subsystem.Class)
    {
        Backend = backend;
        Options = options;
        DiskSequence = Interlocked.Increment(ref s_sequence);
        Info = backend.Info;
        backend.InfoChanged += OnInfoChanged;
        // What came in between was told to nobody.
        lock (_infoLock)
            Info = backend.Info;
    }

    /// <summary>Raised once, when the disk is taken out: who has it open lets go. On the thread that takes it out; the listener must not block.</summary>
    public event EventHandler? Gone;

    /// <summary>Size, units and abilities at this moment; the last ones, when the disk has gone.</summary>
    public BlockInfo Info { get; private set; }

    /// <summary>What the driver says of it.</summary>
    public BlockDeviceOptions Options { get; }

    /// <summary>A number that no other disk has or had (Linux: diskseq).</summary>
    public long DiskSequence { get; }

    /// <summary>The name that users know: the disk's own.</summary>
    public override string Label => Name;

    /// <summary>Where a transport put it, or null. The transport sets it.</summary>
    public IDeviceEndpoint? Endpoint
    {
        get => Volatile.Read(ref _endpoint);
        set => Volatile.Write(ref _endpoint, value);
    }

    /// <summary>Why a transport can't offer it, or null. The transport sets it.</summary>
    public VirtbusException? EndpointError { get; set; }

    /// <summary>Who has it open at this moment.</summary>
    public IReadOnlyList<BlockUser> Users
    {
        get
        {
            lock (_lock)
                return [.. _users];
        }
    }

    internal IBlockBackend Backend { get; }

    internal bool HasEnded => Volatile.Read(ref _hasEnded);

    /// <summary>Opens the disk.</summary>
    /// <param name="user">Who does, for messages and the disk's attributes.</param>
    /// <param name="use">Whether others may have it open too.</param>
    /// <returns>The disk as a back end; disposed, it is open no more.</returns>
    /// <exception cref="VirtbusException">EBUSY: another user has it alone, or it was to be opened alone and is not; ENODEV: it is gone.</exception>
    public BlockUser Open(string user, BlockUse use = BlockUse.Shared)
    {
        ArgumentException.ThrowIfNullOrEmpty(user);
        lock (_lock)
        {
            if (_hasEnded)
                throw new VirtbusException(Errno.ENODEV, $"Disk '{Name}' is gone.");
            if (_users.FirstOrDefault(u => use == BlockUse.Exclusive || u.Use == BlockUse.Exclusive) is { } other)
                throw new VirtbusException(Errno.EBUSY, $"Disk '{Name}' is open by {other.Name}. Close it there first.");
            var opened = new BlockUser(this, user, use);
            _users.Add(opened);
            return opened;
        }
    }

    /// <inheritdoc/>
    protected override void AddUeventVariables(UeventVariables variables)
    {
        variables.Add("DEVNAME", Name);
        variables.Add("DEVTYPE", "disk");
        variables.Add("DISKSEQ", $"{DiskSequence}");
    }

    /// <inheritdoc/>
    protected override async ValueTask OnLeavingAsync() => await EndAsync();

    internal void Close(BlockUser user)
    {
        lock (_lock)
            _users.Remove(user);
    }

    internal void Add(BlockDeviceChannel channel)
    {
        lock (_lock)
        {
            if (_hasEnded)
                throw new VirtbusException(Errno.ENODEV, $"Disk '{Name}' is gone.");
            _channels.Add(channel);
        }
    }

    internal void Remove(BlockDeviceChannel channel)
    {
        lock (_lock)
        {
            if (_channels.Remove(channel))
                _closed.Add(channel.Statistics);
        }
    }

    /// <summary>What was counted since the disk was registered. Each counter is exact; a copy is not of one instant.</summary>
    internal BlockStatistics ReadStatistics()
    {
        var sum = new BlockStatistics();
        lock (_lock)
        {
            sum.Add(_closed);
            foreach (var channel in _channels)
                sum.Add(channel.Statistics);
        }

        sum.BusyMilliseconds = Interlocked.Read(ref _ticks);
        return sum;
    }

    /// <summary>
    /// Counts the time that the disk had something to do, as Linux does: when a request comes or ends and the clock has moved on. One writer wins each
    /// millisecond, so that requests do not share a line that is written.
    /// </summary>
    internal void CountBusy(long milliseconds, bool isEnd)
    {
        var stamp = Volatile.Read(ref _ticksStamp);
        if (stamp != milliseconds && Interlocked.CompareExchange(ref _ticksStamp, milliseconds, stamp) == stamp)
            Interlocked.Add(ref _ticks, isEnd ? milliseconds - stamp : 1);
    }

    /// <summary>How blocks are kept, by the driver's side as long as that is there.</summary>
    internal BlockExtent FindExtent(long offset, long length)
    {
        if (!_questions.TryEnter())
            return new BlockExtent(length, IsHole: false);
        try
        {
            return Backend.FindExtent(offset, length);
        }
        finally
        {
            _questions.Leave();
        }
    }

    /// <summary>Memory of the driver's side, as long as that is there.</summary>
    internal BlockMemory? AllocateMemory(ulong bytes)
    {
        if (!_questions.TryEnter())
            return null;
        try
        {
            return Backend.AllocateMemory(bytes);
        }
        finally
        {
            _questions.Leave();
        }
    }

    /// <summary>Takes the driver's side away from users.</summary>
    /// <returns>A task that ends when that is done, whoever asked for it first.</returns>
    /// <exception cref="AggregateException">What listeners and the driver's channels threw; all the others were told and closed all the same.</exception>
    internal async Task EndAsync()
    {
        BlockDeviceChannel[]? channels = null;
        lock (_lock)
        {
            if (!_hasEnded)
            {
                _hasEnded = true;
                channels = [.. _channels];
            }
        }

        if (channels is null)
        {
            await _ended.Task;
            return;
        }

        List<Exception> failures = [];
        try
        {
            Backend.InfoChanged -= OnInfoChanged;
            _questions.Shut();
            foreach (var channel in channels)
                channel.Shut();
            foreach (var listener in Gone?.GetInvocationList() ?? [])
                Try(() => ((EventHandler)listener)(this, EventArgs.Empty));
            // Off the caller's thread: what it waits for may need that.
            await Task.Run(() =>
            {
                // However many there are, all have the same second, and what is cut the next one.
                var until = Environment.TickCount64 + TimeToEnd;
                foreach (var channel in channels)
                    channel.WaitUntil(until);
                foreach (var channel in channels)
                    channel.Cut();
                until = Environment.TickCount64 + TimeToEnd;
                foreach (var channel in channels)
                    Try(() => channel.End(until));
                _questions.TryWait(TimeToEnd);
            });
        }
        finally
        {
            _ended.SetResult();
        }

        if (failures.Count > 0)
            throw new AggregateException(failures);

        void Try(Action action)
        {
            try
            {
                action();
            }
            catch (Exception exception)
            {
                failures.Add(exception);
            }
        }
    }

    private void OnInfoChanged(object? sender, EventArgs e)
    {
        BlockInfo before;
        // Two may come at once, and the last one to look has the last word.
        lock (_infoLock)
        {
            before = Info;
            Info = Backend.Info;
        }

        // Outside of the driver's call: users listen as well.
        foreach (var user in Users)
            user.TellInfoChanged();
        if (before.Capacity != Info.Capacity)
            Fabric?.EmitUevent(this, UeventAction.Change, new KeyValuePair<string, string>("RESIZE", "1"));
        else if (before.IsReadOnly != Info.IsReadOnly)
            Fabric?.EmitUevent(this, UeventAction.Change, new KeyValuePair<string, string>("DISK_RO", Info.IsReadOnly ? "1" : "0"));
    }
}
