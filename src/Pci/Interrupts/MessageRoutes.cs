using System.Numerics;
using static Virtbus.Pci.PciMessageRoute;

namespace Virtbus.Pci;

/// <summary>
/// The vectors behind MSI or MSI-X as those see them who raise: a route for each, and a pending bit. Raising takes no lock: it loads the route,
/// tests it and signals. Routes are changed under the lock of whoever owns this; when a change has closed a route, nothing goes straight to
/// its target any more.
/// </summary>
/// <remarks>
/// What is raised while its route is closed sets the pending bit and then looks at the route again; who opens a route does so first and then
/// looks at the bits. One of the two sees the other, and only who clears the bit delivers: so nothing is lost, and nothing comes twice.
/// </remarks>
internal sealed class MessageRoutes
{
    private readonly PciMessageRoute?[] _routes;
    private readonly ulong[] _pending;
    private readonly Action<ulong, uint> _send;
    private readonly Func<ulong, uint, IPciMessageTarget?>? _find;
    private readonly Action? _pendingChanged;
    private readonly Lock _linking = new();
    private volatile bool _isEnabled;
    private volatile bool _isLinked;

    /// <param name="vectors">How many there are.</param>
    /// <param name="send">Sends a message the long way.</param>
    /// <param name="find">Looks up what a message reaches; null for the long way only. Under no lock.</param>
    /// <param name="pendingChanged">Told after each change of a pending bit; null for nobody.</param>
    public MessageRoutes(int vectors, Action<ulong, uint> send, Func<ulong, uint, IPciMessageTarget?>? find, Action? pendingChanged)
    {
        _routes = new PciMessageRoute?[vectors];
        _pending = new ulong[(vectors + 63) / 64];
        _send = send;
        _find = find;
        _pendingChanged = pendingChanged;
    }

    public bool IsEnabled => _isEnabled;

    /// <summary>A word of the pending bits. While disabled nothing is pending.</summary>
    public ulong Pending(int word) => _isEnabled ? Volatile.Read(ref _pending[word]) : 0;

    /// <summary>Raises a vector.</summary>
    /// <returns>False when disabled: nothing happened.</returns>
    public bool Raise(int vector)
    {
        if (Volatile.Read(ref _routes[vector]) is { IsOpen: true } route && TryDeliver(route))
            return true;
        return Hold(vector);
    }

    /// <summary>Enables or disables all; a route is opened after that, and closed before. Nothing is pending when it is enabled.</summary>
    public void Enable(bool enabled)
    {
        // Not when it is disabled: a raise that came just before may still set its bit, which is of no use to anybody after this.
        if (enabled && !_isEnabled)
            Array.Clear(_pending);
        _isEnabled = enabled;
    }

    /// <summary>Sets a vector's message and whether it is open. Nothing is allocated for a message that stays.</summary>
    public void Set(int vector, ulong address, uint data, bool isOpen)
    {
        var old = _routes[vector];
        if (old is null && !isOpen)
            return;
        IPciMessageTarget? left;
        lock (_linking)
        {
            if (old is not null && old.Address == address && old.Data == data)
            {
                left = SetState(old, isOpen);
            }
            else
            {
                left = old is null ? null : SetState(old, isOpen: false);
                var route = new PciMessageRoute(address, data);
                SetState(route, isOpen);
                Volatile.Write(ref _routes[vector], route);
            }
        }
        left?.Drain();
    }

    /// <summary>Sets whether the function may send. When it may not, nothing goes straight to a target when this returns.</summary>
    public void Link(bool linked)
    {
        if (_isLinked == linked)
            return;
        _isLinked = linked;
        foreach (var route in _routes)
        {
            if (route is null)
                continue;
            IPciMessageTarget? left;
            lock (_linking)
            {
                left = SetState(route, route.IsOpen);
                if (!linked)
                    route.Target = null;
            }
            left?.Drain();
        }
    }

    /// <summary>Sends what is pending and open.</summary>
    public void Flush()
    {
        // What was opened is seen by those who set a bit from here on.
        Interlocked.MemoryBarrier();
        for (var word = 0; word < _pending.Length; word++)
        {
            for (var left = Volatile.Read(ref _pending[word]); left != 0; left &= left - 1)
            {
                var vector = (word * 64) + BitOperations.TrailingZeroCount(left);
                if (Volatile.Read(ref _routes[vector]) is { IsOpen: true } && TryTake(vector))
                    Redeliver(vector);
            }
        }
    }

    private bool Hold(int vector)
    {
        if (!_isEnabled)
            return false;
        var bit = 1UL << (vector & 63);
        if ((Interlocked.Or(ref _pending[vector / 64], bit) & bit) == 0)
            _pendingChanged?.Invoke();
        // It may have been opened between the look and the mark; then nobody else may see the mark.
        if (Volatile.Read(ref _routes[vector]) is { IsOpen: true } && TryTake(vector))
            Redeliver(vector);
        return _isEnabled;
    }

    private bool TryTake(int vector)
    {
        var bit = 1UL << (vector & 63);
        if ((Interlocked.And(ref _pending[vector / 64], ~bit) & bit) == 0)
            return false;
        _pendingChanged?.Invoke();
        return true;
    }

    // One that was closed meanwhile is pending again.
    private void Redeliver(int vector)
    {
        if (Volatile.Read(ref _routes[vector]) is not { IsOpen: true } route || !TryDeliver(route))
            Hold(vector);
    }

    private bool TryDeliver(PciMessageRoute route)
    {
        var target = route.Target;
        if (target is not null && target.TrySignal(route))
            return true;
        if (!route.IsOpen)
            return false;
        _send(route.Address, route.Data);
        if (_find is not null && _isLinked && (target is null || target.IsRevoked))
            Resolve(route, _find);
        return true;
    }

    // Once for a message, and again when the system gave its vectors to somebody else.
    private void Resolve(PciMessageRoute route, Func<ulong, uint, IPciMessageTarget?> find)
    {
        if (find(route.Address, route.Data) is not { } target)
            return;
        lock (_linking)
        {
            if (!_isLinked)
                return;
            route.Target = target;
            SetState(route, route.IsOpen);
        }
    }

    // Under the linking lock; the answer has to be drained.
    private IPciMessageTarget? SetState(PciMessageRoute route, bool isOpen)
    {
        var before = route.State;
        route.State = !isOpen ? RouteState.Closed : _isLinked && route.Target is not null ? RouteState.Direct : RouteState.Open;
        return before == RouteState.Direct && route.State != RouteState.Direct ? route.Target : null;
    }
}
