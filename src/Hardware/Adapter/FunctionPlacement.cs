using Virtbus.Memory.Dma;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// Where a function is worked for: on the lane that all share while drivers of the host have its DMA, on one of its own while a user has it. And
/// the gate, which is held by the lane's thread while it does DMA and raises interrupts for the function, and by who resets the function: once
/// they have it, none of that is under way. A lane takes the gates of its own functions only, so one that waits for a user holds up nobody else;
/// only a lane holds two gates at a time.
/// </summary>
/// <param name="engine">Has the lanes.</param>
/// <param name="reset">Ends what was set up, true when the one who did has the function no more; called under the gate.</param>
/// <param name="moved">The function is on another lane; called under no lock, before the old one ends.</param>
internal sealed class FunctionPlacement(AdapterEngine engine, Action<bool> reset, Action moved)
{
    private const int GatePatience = 10;
    private AdapterLane _lane = engine.Common;
    private DmaPort? _dma;
    private IDisposable? _watch;
    private bool _hasUser;

    internal Lock Gate { get; } = new();

    /// <summary>The lane that works for it now.</summary>
    internal AdapterLane Lane => Volatile.Read(ref _lane);

    /// <summary>Takes the gate for a lane; never waits while another lane has it.</summary>
    /// <returns>False when another lane works for the function by now.</returns>
    internal bool TryEnter(AdapterLane lane)
    {
        while (Lane == lane)
        {
            // Else it is one who resets the function, and perhaps gives it to a lane that holds the gate for long.
            if (!Gate.TryEnter(GatePatience))
                continue;
            if (Lane == lane)
                return true;
            Gate.Exit();
        }
        return false;
    }

    /// <summary>The function is in a slot: who owns its DMA decides from now on which lane works for it.</summary>
    internal void Plugged(DmaPort dma)
    {
        lock (Gate)
            _dma = dma;
        _watch = dma.Group.Observe(null, ChooseLane);
        ChooseLane();
    }

    /// <summary>The function is out of its slot.</summary>
    internal void Unplugged()
    {
        _watch?.Dispose();
        lock (Gate)
        {
            _dma = null;
            reset(false);
        }
        ChooseLane();
    }

    // What a user set up ends with its ownership, and nothing of it is done by the lane that was its own, nor by the one that all share.
    private void ChooseLane()
    {
        AdapterLane old;
        lock (Gate)
        {
            old = Lane;
            var user = _dma is { Group.OwnerKind: DmaOwnerKind.User } ? _dma : null;
            if (user is not null == _hasUser)
                return;
            _hasUser = user is not null;
            reset(true);
            Volatile.Write(ref _lane, user is null ? engine.Common : engine.OpenLane(user.Name));
        }
        moved();
        engine.CloseLane(old);
    }
}
