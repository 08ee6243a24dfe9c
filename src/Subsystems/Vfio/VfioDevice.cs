using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Subsystems.Vfio;

/// <summary>A device that a user outside the fabric can open and drive (Linux: <c>/dev/vfio/devices/vfioN</c>). Transports watch its class.</summary>
public sealed class VfioDevice : Device, IOfferedDevice, IUserHeld
{
    /// <summary>How long a user has to let go before it is asked again.</summary>
    public static readonly TimeSpan RequestInterval = TimeSpan.FromSeconds(3);

    // A line in the log for the first request and for every so many after it.
    private const int RequestsPerLogLine = 20;

    private const int LinesPerSpan = 20;
    private static readonly TimeSpan LineSpan = TimeSpan.FromSeconds(10);

    private readonly VfioSubsystem _subsystem;
    private readonly LogLimiter _limiter;
    private readonly Lock _lock = new();
    private IDeviceEndpoint? _endpoint;
    private VfioHandle? _handle;
    private List<TaskCompletionSource>? _waiting;
    private bool _isGoingAway;

    internal VfioDevice(VfioSubsystem subsystem, string name, string label, Device parent, IVfioDeviceOps ops, Action<Device> release)
        : base(name, parent, bus: null, subsystem.Class)
    {
        _subsystem = subsystem;
        _limiter = new LogLimiter(subsystem.Time, LinesPerSpan, LineSpan);
        Label = label;
        Ops = ops;
        Release = release;
    }

    /// <summary>The name that users know: that of the device it stands on, for example 0000:01:00.1.</summary>
    public override string Label { get; }

    /// <summary>Whether somebody has it open.</summary>
    public bool IsOpen => Volatile.Read(ref _handle) is not null;

    bool IUserHeld.IsHeld => IsOpen;

    /// <summary>Who has it open; null when nobody has.</summary>
    public string? User => Volatile.Read(ref _handle)?.User;

    /// <summary>Where a transport put it, or null. The transport sets it.</summary>
    public IDeviceEndpoint? Endpoint
    {
        get => Volatile.Read(ref _endpoint);
        set => Volatile.Write(ref _endpoint, value);
    }

    /// <summary>Why a transport can't offer it, or null. The transport sets it when the device is added; the registration fails with it.</summary>
    public VirtbusException? EndpointError { get; set; }

    internal IVfioDeviceOps Ops { get; }

    internal Microsoft.Extensions.Logging.ILogger Log => _subsystem.Log;

    /// <summary>Whether a line about a user may be written: users come and go as they like.</summary>
    internal bool MayLog(bool isDue = false)
    {
        if (!_limiter.TryTake(out var suppressed, isDue))
            return false;
        if (suppressed > 0)
            VfioLog.LeftOut(Log, Name, Label, suppressed);
        return true;
    }

    /// <summary>Opens the device for one user, by itself: nobody else opens a device of its IOMMU group meanwhile.</summary>
    /// <param name="user">The user's name for messages.</param>
    /// <param name="handle">The open device; the caller disposes it.</param>
    /// <param name="fault">EBUSY: open, or its DMA belongs to another; ENODEV: it is going away; what the driver answered.</param>
    public bool TryOpen(string user, out VfioHandle? handle, out Fault fault) =>
        TryOpen(new VfioOwner(user), out handle, out fault);

    /// <summary>As the other one, for a user who may have other devices of the same IOMMU group open (<see cref="VfioContainer"/>).</summary>
    internal bool TryOpen(VfioOwner user, out VfioHandle? handle, out Fault fault)
    {
        handle = null;
        var opened = new VfioHandle(this, user);
        lock (_lock)
        {
            if (_isGoingAway || IsGone || State != DeviceState.Added)
            {
                fault = new Fault(Errno.ENODEV, $"Device {Label} is going away. Bind its driver again, or wait for the device to come back.");
                return false;
            }
            if (_handle is { } there)
            {
                fault = new Fault(Errno.EBUSY, $"Device {Label} is open by '{there.User}'. Close it there first.");
                return false;
            }
            _handle = opened;
        }
        if (!opened.TryStart(out fault))
            return false;
        handle = opened;
        return true;
    }

    /// <summary>
    /// The hardware is gone, or cannot be trusted to any user any more: nobody can open the device from now on, and who has it open finds it
    /// dead. The core calls this itself when a device above is gone by surprise; a driver calls it when it knows of another reason.
    /// </summary>
    public void Revoke()
    {
        VfioHandle? handle;
        lock (_lock)
        {
            _isGoingAway = true;
            handle = _handle;
        }
        handle?.Revoke();
    }

    /// <inheritdoc/>
    protected override ValueTask OnLeavingAsync() => ReleaseUserAsync();

    /// <inheritdoc/>
    protected override void OnGone() => Revoke();

    /// <summary>Waits until nobody has the device open. Nobody can open it from now on.</summary>
    internal async ValueTask ReleaseUserAsync()
    {
        for (var count = 0; ; count++)
        {
            VfioHandle handle;
            // Ends at the close or after the interval, whichever comes first.
            var turn = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            lock (_lock)
            {
                _isGoingAway = true;
                if (_handle is null)
                    return;
                handle = _handle;
                (_waiting ??= []).Add(turn);
            }
            if (IsGone)
            {
                handle.Revoke();
                await turn.Task;
                return;
            }
            Ask(handle, count);
            await using (Fabric!.Time.CreateTimer(static t => ((TaskCompletionSource)t!).TrySetResult(), turn, RequestInterval, Timeout.InfiniteTimeSpan))
                await turn.Task;
            lock (_lock)
                _waiting?.Remove(turn);
        }
    }

    /// <summary>A handle is closed, or did not come to be open.</summary>
    internal void Closed()
    {
        List<TaskCompletionSource>? waiting;
        lock (_lock)
        {
            _handle = null;
            waiting = _waiting;
            _waiting = null;
        }
        foreach (var turn in waiting ?? [])
            turn.TrySetResult();
    }

    internal static readonly AttributeGroup[] Groups =
    [
        new(EndpointAttributes.Of<VfioDevice>(d => d.Endpoint)),
        new(
            new ObjectAttribute<VfioDevice>("migration_state", d => NameOf(d.Ops.Migration?.State), visible: d => d.Ops.Migration is not null),
            new ObjectAttribute<VfioDevice>("revoke", null, static (d, value, _) =>
            {
                if (AttributeValue.ParseBoolean(d.DevPath + "/revoke", value))
                    d.Revoke();
                return default;
            }),
            new ObjectAttribute<VfioDevice>("user", d => d.User ?? "")),
    ];

    // As Linux shows them in debugfs.
    private static string NameOf(VfioMigrationState? state) => state switch
    {
        VfioMigrationState.Error => "ERROR",
        VfioMigrationState.Stop => "STOP",
        VfioMigrationState.Running => "RUNNING",
        VfioMigrationState.StopCopy => "STOP_COPY",
        VfioMigrationState.Resuming => "RESUMING",
        VfioMigrationState.RunningP2P => "RUNNING_P2P",
        VfioMigrationState.PreCopy => "PRE_COPY",
        VfioMigrationState.PreCopyP2P => "PRE_COPY_P2P",
        _ => "",
    };

    private void Ask(VfioHandle handle, int count)
    {
        if (count % RequestsPerLogLine == 0)
            VfioLog.InUse(Log, Name, Label, handle.User, count + 1);
        try
        {
            Ops.Request(count);
        }
        catch (Exception e)
        {
            VfioLog.RequestFailed(Log, Name, Label, e);
        }
        handle.TellRequested(revoked: false);
    }
}
