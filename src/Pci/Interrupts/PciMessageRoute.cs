namespace Virtbus.Pci;

/// <summary>
/// The message that software gave a vector, and the way that it takes. Message and vector do not change; whether it is open, and what it leads
/// to, is changed by whoever changes the table.
/// </summary>
public sealed class PciMessageRoute
{
    private volatile RouteState _state;
    private IPciMessageTarget? _target;

    internal PciMessageRoute(ulong address, uint data)
    {
        Address = address;
        Data = data;
    }

    /// <summary>Where the message is written to.</summary>
    public ulong Address { get; }

    /// <summary>What is written.</summary>
    public uint Data { get; }

    /// <summary>Whether the message may go straight to its target: enabled, not masked, and the function may send.</summary>
    public bool IsDirect => _state == RouteState.Direct;

    /// <summary>Whether the vector is enabled and not masked.</summary>
    internal bool IsOpen => _state != RouteState.Closed;

    internal RouteState State
    {
        get => _state;
        set => _state = value;
    }

    /// <summary>What it leads to; null as long as nobody has looked.</summary>
    internal IPciMessageTarget? Target
    {
        get => Volatile.Read(ref _target);
        set => Volatile.Write(ref _target, value);
    }

    internal enum RouteState
    {
        /// <summary>Disabled or masked: a raise is pending or nothing.</summary>
        Closed,

        /// <summary>The message is handed to the port.</summary>
        Open,

        /// <summary>The target is signalled.</summary>
        Direct,
    }
}
