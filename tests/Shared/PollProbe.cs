using Virtbus.Platform;

namespace Virtbus.Tests;

/// <summary>A client that counts its turns and notes what may not happen: two calls at once, or a call after its end.</summary>
internal sealed class PollProbe(Func<ulong, bool>? work = null, Func<bool>? prepare = null, Func<long>? due = null) : IPollWork
{
    private int _inCall;
    private int _turns;
    private int _wrongs;
    private ulong _signals;

    public long DueAt => due?.Invoke() ?? long.MaxValue;

    internal int Turns => Volatile.Read(ref _turns);

    internal ulong Signals => Volatile.Read(ref _signals);

    internal int Wrongs => Volatile.Read(ref _wrongs);

    internal Exception? Failure { get; private set; }

    internal int Awakenings { get; private set; }

    // Some programs of tests never end one.
    internal volatile bool IsOver = false;

    public bool Work(ulong signals)
    {
        Enter();
        _turns++;
        _signals |= signals;
        var worked = work?.Invoke(signals) == true;
        Leave();
        return worked;
    }

    public bool PrepareToSleep()
    {
        Enter();
        var came = prepare?.Invoke() == true;
        Leave();
        return came;
    }

    public void Awake()
    {
        Enter();
        Awakenings++;
        Leave();
    }

    public bool Failed(Exception exception)
    {
        Failure = exception;
        return false;
    }

    private void Enter()
    {
        if (Interlocked.Exchange(ref _inCall, 1) != 0 || IsOver)
            Interlocked.Increment(ref _wrongs);
    }

    private void Leave()
    {
        if (IsOver)
            Interlocked.Increment(ref _wrongs);
        Volatile.Write(ref _inCall, 0);
    }
}
