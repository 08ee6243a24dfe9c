namespace Virtbus.Hardware.Adapter;

/// <summary>
/// The functions of an adapter that its physical one commands, by their ids: what each is to be, and those that there are. It knows nothing of
/// what kind they are. Any thread.
/// </summary>
internal sealed class FunctionTable(AdapterEngine engine)
{
    /// <summary>Queue sets of a function that nothing was said of.</summary>
    public const int DefaultQueueSets = 8;

    /// <summary>The most queue sets that such a function can get.</summary>
    public const int MaxQueueSets = 16;

    private const int Windows = 8;
    private readonly Lock _lock = new();
    private readonly Dictionary<uint, Entry> _entries = [];

    /// <summary>From now on there can be a function of that id.</summary>
    /// <param name="id">Its id, none that another one has.</param>
    /// <param name="initial">What it is at power-on.</param>
    public void Declare(uint id, FunctionSettings initial)
    {
        lock (_lock)
            _entries.Add(id, new Entry(initial));
    }

    public bool TryGetSettings(uint id, out FunctionSettings settings)
    {
        lock (_lock)
        {
            var isDeclared = _entries.TryGetValue(id, out var entry);
            settings = isDeclared ? entry!.Settings : default;
            return isDeclared;
        }
    }

    /// <summary>Says what a declared function is to be; it has to be one that there is not now.</summary>
    public bool TrySetSettings(uint id, FunctionSettings settings)
    {
        lock (_lock)
        {
            if (_entries[id].Unit is not null)
                return false;
            _entries[id].Settings = settings;
            return true;
        }
    }

    public bool TryGet(uint id, out FunctionUnit unit)
    {
        lock (_lock)
            unit = _entries.GetValueOrDefault(id)?.Unit!;
        return unit is not null;
    }

    /// <summary>Makes the inside of a declared function.</summary>
    /// <param name="layout">Its make's.</param>
    /// <param name="port">By what it is reached.</param>
    public FunctionUnit Create(AdapterLayout layout, IFunctionPort port)
    {
        lock (_lock)
        {
            var entry = _entries[port.Identity.Id];
            var limits = new FunctionLimits(Math.Min(engine.NetworkParts, 1), engine.VdpaParts, entry.Settings.QueueSets, port.Vectors, Windows, 0);
            return entry.Unit = new FunctionUnit(engine, layout, port, limits, entry.Settings.MacAddress, null);
        }
    }

    /// <summary>A function is no more.</summary>
    public void Remove(uint id)
    {
        lock (_lock)
            _entries[id].Unit = null;
    }

    /// <summary>Every function is to be again what it is at power-on.</summary>
    public void Forget()
    {
        lock (_lock)
        {
            foreach (var entry in _entries.Values)
                entry.Settings = entry.Initial;
        }
    }

    private sealed class Entry(FunctionSettings initial)
    {
        public FunctionSettings Initial { get; } = initial;

        public FunctionSettings Settings { get; set; } = initial;

        public FunctionUnit? Unit { get; set; }
    }
}
