namespace Virtbus.Hardware.Adapter;

/// <summary>The virtual functions of an adapter as its physical function commands them: what each is to be, and those that there are.</summary>
internal sealed class VirtualFunctionTable
{
    /// <summary>Queue sets of a virtual function that nothing was said of.</summary>
    public const int DefaultQueueSets = 8;

    /// <summary>The most queue sets that a virtual function can get.</summary>
    public const int MaxQueueSets = 16;

    /// <summary>MSI-X vectors of a virtual function.</summary>
    public const int Vectors = 32;

    private const int Windows = 8;
    private readonly Lock _lock = new();
    private readonly AdapterEngine _engine;
    private readonly FunctionUnit?[] _units;
    private readonly VirtualFunctionProfile[] _profiles;

    public VirtualFunctionTable(AdapterEngine engine, int total)
    {
        _engine = engine;
        _units = new FunctionUnit?[total];
        _profiles = new VirtualFunctionProfile[total];
        Forget();
    }

    /// <summary>How many can be enabled.</summary>
    public int Total => _units.Length;

    public bool TryGetProfile(uint index, out VirtualFunctionProfile profile)
    {
        lock (_lock)
        {
            profile = index < (uint)Total ? _profiles[index] : default;
            return index < (uint)Total;
        }
    }

    /// <summary>Says what a function is to be; it has to be one that there is not now.</summary>
    public bool TrySetProfile(uint index, VirtualFunctionProfile profile)
    {
        lock (_lock)
        {
            if (_units[index] is not null)
                return false;
            _profiles[index] = profile;
            return true;
        }
    }

    public bool TryGet(uint index, out FunctionUnit unit)
    {
        lock (_lock)
            unit = (index < (uint)Total ? _units[index] : null)!;
        return unit is not null;
    }

    /// <summary>Makes the inside of a function.</summary>
    public FunctionUnit Create(int index, AdapterLayout layout, IFunctionSlot slot)
    {
        lock (_lock)
        {
            var profile = _profiles[index];
            var limits = new FunctionLimits(Math.Min(_engine.NetworkParts, 1), _engine.VdpaParts, profile.QueueSets, Vectors, Windows, 0);
            return _units[index] = new FunctionUnit(_engine, layout, slot, limits, index, profile.MacAddress, null);
        }
    }

    /// <summary>A function is no more.</summary>
    public void Remove(int index)
    {
        lock (_lock)
            _units[index] = null;
    }

    /// <summary>Every function is to be again what it is at power-on.</summary>
    public void Forget()
    {
        lock (_lock)
        {
            for (var i = 0; i < _profiles.Length; i++)
                _profiles[i] = new VirtualFunctionProfile(DeriveAddress(i), DefaultQueueSets);
        }
    }

    // 06, the function's number, and the last four bytes of the physical function; 0A when that one has 06 itself.
    private ulong DeriveAddress(int index) =>
        ((_engine.MacAddress >> 40 == 6 ? 0x0AUL : 0x06UL) << 40) | ((ulong)index << 32) | (_engine.MacAddress & 0xFFFFFFFF);
}
