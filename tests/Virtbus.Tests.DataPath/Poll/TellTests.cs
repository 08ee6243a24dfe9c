using Virtbus.Platform;

namespace Virtbus.Tests.DataPath.Poll;

/// <summary>What clients of one poll thread tell their peers after a pass.</summary>
public sealed class TellTests : IDisposable
{
    private readonly PollThreads _pool = new(1);

    public void Dispose() => _pool.Dispose();

    [Fact]
    public void Each_client_that_did_something_tells_after_it_and_no_other()
    {
        var one = new Teller();
        var two = new Teller();
        var a = _pool.Attach("one", one, []);
        var b = _pool.Attach("two", two, []);
        for (var round = 1; round <= 1000; round++)
        {
            one.Give();
            a.Kick();
            if (round % 3 == 0)
            {
                two.Give();
                b.Kick();
            }

            var wanted = round;
            Deadline.Until(() => one.Told == wanted && two.Told == wanted / 3, "what was done to be told");
        }

        a.Detach();
        b.Detach();
        Assert.Equal((0, 0), (one.Wrong, two.Wrong));
    }

    [Fact]
    public void What_was_not_told_before_a_move_is_told_after_it()
    {
        using var other = new PollThreads(1);
        var teller = new Teller();
        var busy = new Teller { IsBusy = true };
        var a = _pool.Attach("teller", teller, []);
        var b = _pool.Attach("busy", busy, []);
        var threads = new[] { _pool[0], other[0] };
        for (var round = 1; round <= 500; round++)
        {
            teller.Give();
            a.Kick();
            a.MoveTo(threads[round % 2]);
            var wanted = round;
            Deadline.Until(() => teller.Told == wanted, "what was done to be told");
        }

        a.Detach();
        b.Detach();
    }

    /// <summary>A client that does what it was given and tells of it; like a queue, what it has not told it tells with its next turn.</summary>
    private sealed class Teller : IPollWork
    {
        private int _given;
        private int _done;
        private int _told;
        private bool _hasNews;

        internal bool IsBusy { get; init; }

        internal int Told => Volatile.Read(ref _told);

        internal int Wrong { get; private set; }

        internal void Give() => Interlocked.Increment(ref _given);

        public bool Work(ulong signals)
        {
            Tell();
            if (Volatile.Read(ref _given) == _done)
                return IsBusy;
            _done++;
            _hasNews = true;
            return true;
        }

        public void Tell()
        {
            if (!_hasNews)
                return;
            _hasNews = false;
            if (_done != _told + 1)
                Wrong++;
            Volatile.Write(ref _told, _told + 1);
        }

        public bool PrepareToSleep() => Volatile.Read(ref _given) != _done;

        public void Awake()
        {
        }
    }
}
