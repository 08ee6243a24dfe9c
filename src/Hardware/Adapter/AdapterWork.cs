using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>A piece of work of an adapter. What is idle is on no list and costs nothing.</summary>
internal abstract class AdapterWork
{
    private int _scheduled;

    /// <summary>Which lane does it now.</summary>
    internal abstract AdapterLane Lane { get; }

    /// <summary>Where bugs of it are told; null for nowhere in particular.</summary>
    internal virtual FaultSource? Faults => null;

    /// <summary>Does some of it.</summary>
    /// <param name="lane">The lane whose thread this is; by now the work may be another one's.</param>
    /// <returns>Whether there is more; the next turn then comes after those of the others.</returns>
    internal abstract bool Run(AdapterLane lane);

    /// <summary>A turn, or what follows from it, ended in a bug of this program: the function fails, and no other.</summary>
    /// <param name="lane">The lane whose thread this is.</param>
    internal virtual void Break(AdapterLane lane)
    {
    }

    /// <summary>Asks for a turn. Any thread.</summary>
    internal void Schedule()
    {
        if (TrySchedule())
            Lane.Enqueue(this);
    }

    /// <summary>Notes that a turn is wanted.</summary>
    /// <returns>False when one was wanted already.</returns>
    internal bool TrySchedule() => Interlocked.Exchange(ref _scheduled, 1) == 0;

    /// <summary>The turn begins. What is asked for from here on needs another one; a full fence, so that its cause is seen by this one or makes that one.</summary>
    internal void BeginTurn() => Interlocked.Exchange(ref _scheduled, 0);
}
