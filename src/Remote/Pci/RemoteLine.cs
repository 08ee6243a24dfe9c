namespace Virtbus.Remote.Pci;

/// <summary>
/// The interrupt line of a function that is elsewhere, at its slot here. Who has the function masks the line when it fires, and says no more until it is
/// unmasked. Nobody tells when the system has dealt with it, so the next access to the function counts as that: the line goes down, and is unmasked; if
/// the cause is still there, it fires again. One thread raises it; accesses come from any.
/// </summary>
/// <param name="set">Sets the line at the slot. When it is raised its handler runs in that call, and may access the function.</param>
/// <param name="unmask">Unmasks the line where the function is.</param>
internal sealed class RemoteLine(Action<bool> set, Action unmask)
{
    private const int Low = 0;
    private const int Rising = 1;
    private const int High = 2;

    private int _level;
    private int _wasAccessed;
    private int _thread;

    /// <summary>It has fired; on the thread that raises it.</summary>
    internal void Raise()
    {
        _thread = Environment.CurrentManagedThreadId;
        Volatile.Write(ref _wasAccessed, 0);
        Interlocked.Exchange(ref _level, Rising);
        set(true);
        // Lowered already: by the handler, which has looked at the function, or for good.
        if (Interlocked.CompareExchange(ref _level, High, Rising) != Rising)
            set(false);
        else if (Volatile.Read(ref _wasAccessed) != 0)
            Accessed();
    }

    /// <summary>Somebody looked at the function: what the line said is dealt with.</summary>
    internal void Accessed()
    {
        var level = Volatile.Read(ref _level);
        if (level == Low)
            return;
        // Somebody else's access must not lower what is not high yet: it would stay high for good. Who raises it does that then.
        if (level == Rising && _thread != Environment.CurrentManagedThreadId)
        {
            Interlocked.Exchange(ref _wasAccessed, 1);
            if (Volatile.Read(ref _level) != High)
                return;
        }

        if (TryLower())
            unmask();
    }

    /// <summary>The line is out of use: it goes down and stays masked.</summary>
    internal void Lower() => TryLower();

    private bool TryLower()
    {
        if (Interlocked.Exchange(ref _level, Low) == Low)
            return false;
        set(false);
        return true;
    }
}
