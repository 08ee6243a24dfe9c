namespace Virtbus.Hardware.Adapter;

/// <summary>A piece of work of the adapter's thread. What is idle is on no list and costs nothing.</summary>
internal abstract class AdapterWork
{
    private int _scheduled;

    /// <summary>Does some of it, on the adapter's thread.</summary>
    /// <returns>Whether there is more; the next turn then comes after those of the others.</returns>
    internal abstract bool Run();

    /// <summary>A turn, or what follows from it, ended in a bug of this program: the function fails, and no other.</summary>
    internal virtual void Break()
    {
    }

    /// <summary>Notes that a turn is wanted.</summary>
    /// <returns>False when one was wanted already.</returns>
    internal bool TrySchedule() => Interlocked.Exchange(ref _scheduled, 1) == 0;

    /// <summary>The turn begins. What is asked for from here on needs another one; a full fence, so that its cause is seen by this one or makes that one.</summary>
    internal void BeginTurn() => Interlocked.Exchange(ref _scheduled, 0);
}
