namespace Virtbus.Buses.Pci;

/// <summary>The SR-IOV side of a physical function: what its capability says, and the virtual functions that are enabled.</summary>
internal sealed class SriovState(int capability, int total, ushort deviceId)
{
    /// <summary>Offset of the capability.</summary>
    public int Capability { get; } = capability;

    public int Total { get; } = total;

    public ushort DeviceId { get; } = deviceId;

    /// <summary>The VF BARs: the size is that of one virtual function, the start that of the first one.</summary>
    public PciResource[] Resources { get; } = new PciResource[6];

    /// <summary>The enabled virtual functions; replaced as a whole.</summary>
    public PciDevice[] Functions
    {
        get => Volatile.Read(ref _functions);
        set => Volatile.Write(ref _functions, value);
    }

    /// <summary>Whether a driver gets the virtual functions without being asked for by name.</summary>
    public bool DriversAutoprobe { get; set; } = true;

    /// <summary>Whether the virtual functions decode their BARs.</summary>
    public bool IsMemoryEnabled
    {
        get => _isMemoryEnabled;
        set => _isMemoryEnabled = value;
    }

    /// <summary>Begins to enable or remove functions; ended by <see cref="EndChange"/>.</summary>
    /// <param name="other">The change that is under way when the answer is false; completes with it.</param>
    public bool TryBeginChange(out Task other)
    {
        lock (Resources)
        {
            other = _change?.Task ?? Task.CompletedTask;
            if (_change is not null)
                return false;
            _change = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            return true;
        }
    }

    public void EndChange()
    {
        TaskCompletionSource? ended;
        lock (Resources)
            (ended, _change) = (_change, null);
        ended?.SetResult();
    }

    private TaskCompletionSource? _change;
    private PciDevice[] _functions = [];
    private volatile bool _isMemoryEnabled;
}
