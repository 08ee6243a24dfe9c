using System.Diagnostics;
using Virtbus.Platform;

namespace Virtbus.Tests.Platform.Polling;

[Collection(nameof(ServiceThread))]
public sealed class PollThreadTests : IDisposable
{
    private readonly PollThreads _pool = new(1, "polltest");

    public void Dispose() => _pool.Dispose();

    [Fact]
    public void First_turn_needs_no_signal_and_later_ones_do()
    {
        using var kick = new EventFd();
        var probe = new PollProbe();
        var client = _pool.Attach("one", probe, [new PollSource(kick.Descriptor, 5, IsEdge: true)]);
        Deadline.Until(() => probe.Turns == 1, "the first turn");
        Settle();
        Assert.Equal(1, probe.Turns);
        Assert.Equal(0UL, probe.Signals);

        kick.Signal();
        Deadline.Until(() => probe.Signals == 1UL << 5, "the signal's turn");
        client.Kick();
        Deadline.Until(() => probe.Turns >= 3, "the kick's turn");
        client.Detach();
    }

    [Fact]
    public void Busy_clients_get_as_many_turns_each()
    {
        int first = 0, second = 0, worst = 0;
        using var start = new EventFd();
        var isOpen = false;
        var one = new PollProbe(_ => Count(ref first));
        var two = new PollProbe(_ => Count(ref second));
        var gate = new PollProbe(_ => !(isOpen = true));
        var a = _pool.Attach("one", one, []);
        var b = _pool.Attach("two", two, []);
        _pool.Attach("gate", gate, []).Kick();
        Deadline.Until(() => Volatile.Read(ref second) > 100_000, "many turns");
        a.Detach();
        b.Detach();
        Assert.True(worst <= 1, $"one client was {worst} turns ahead");

        bool Count(ref int turns)
        {
            turns++;
            // From where on both are there.
            if (!isOpen)
                first = second = 0;
            else if (second <= 100_000)
                worst = Math.Max(worst, Math.Abs(first - second));
            return true;
        }
    }

    [Fact]
    public void Sleeping_client_is_woken_beside_one_that_never_rests()
    {
        using var kick = new EventFd();
        var busy = new PollProbe(_ => true);
        var idle = new PollProbe();
        var a = _pool.Attach("busy", busy, []);
        var b = _pool.Attach("idle", idle, [new PollSource(kick.Descriptor, 0, IsEdge: true)]);
        Deadline.Until(() => idle.Turns == 1, "the first turn");
        for (var i = 0; i < 1000; i++)
        {
            var turns = idle.Turns;
            kick.Signal();
            Deadline.Until(() => idle.Turns > turns, "a turn of the client that was woken");
        }

        b.Detach();
        a.Detach();
    }

    [Fact]
    public void Idle_clients_get_no_turn_and_no_thread()
    {
        const int Count = 4096;
        var threads = ThreadsNamed("polltest");
        var probes = new PollProbe[Count];
        var clients = new PollClient[Count];
        var kicks = new EventFd[Count];
        for (var i = 0; i < Count; i++)
        {
            kicks[i] = new EventFd();
            probes[i] = new PollProbe();
            clients[i] = _pool.Attach("idle", probes[i], [new PollSource(kicks[i].Descriptor, 0, IsEdge: true)], new PollOptions { Spins = true });
        }

        Deadline.Until(() => probes.All(p => p.Turns >= 1), "the first turns");
        Settle();
        var before = probes.Sum(p => p.Turns);
        Tick(100);
        Assert.Equal(before, probes.Sum(p => p.Turns));
        Assert.True(ThreadsNamed("polltest") - threads <= 1);

        kicks[1234].Signal();
        Deadline.Until(() => probes[1234].Signals != 0, "the turn of the one that was kicked");
        Assert.Equal(1, probes.Count(p => p.Signals != 0));
        foreach (var client in clients)
            client.Detach();
        foreach (var kick in kicks)
            kick.Dispose();
        Assert.Equal(0, _pool[0].Clients);
    }

    [Fact]
    public void What_came_while_a_client_prepared_to_sleep_gets_a_turn_without_a_signal()
    {
        var left = 3;
        var probe = new PollProbe(prepare: () => left-- > 0);
        var client = _pool.Attach("late", probe, [], default);
        // Its first turn, and one for each time that something came; then it sleeps.
        Deadline.Until(() => Volatile.Read(ref left) < 0, "the sleep");
        client.Detach();
        Assert.Equal((4, 3), (probe.Turns, probe.Awakenings));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1000)]
    public void Client_that_wants_a_turn_at_a_time_gets_it_without_a_signal_and_no_other(int interval)
    {
        var due = long.MaxValue;
        var early = 0;
        var late = 0;
        var probe = new PollProbe(
            _ =>
            {
                // It wants ten of them.
                if (Volatile.Read(ref due) == long.MaxValue)
                    return false;
                if (Stopwatch.GetTimestamp() < due)
                    early++;
                else
                    Volatile.Write(ref due, ++late == 10 ? long.MaxValue : Stopwatch.GetTimestamp() + (Stopwatch.Frequency / 5000));
                return false;
            },
            due: () => Volatile.Read(ref due));
        // One beside it that wants none in this life.
        var other = new PollProbe(due: static () => long.MaxValue - 1);
        var client = _pool.Attach("due", probe, [], new PollOptions { IntervalMilliseconds = interval });
        var beside = _pool.Attach("never", other, []);
        Deadline.Until(() => probe.Turns == 1 && other.Turns == 1, "the first turns");
        Settle();
        Volatile.Write(ref due, Stopwatch.GetTimestamp() + (Stopwatch.Frequency / 5000));
        client.Kick();
        Deadline.Until(() => Volatile.Read(ref late) == 10, "ten turns");
        client.Detach();
        beside.Detach();
        Assert.InRange(early, 0, 2);
    }

    [Fact]
    public void Client_that_ended_before_its_time_is_let_go_of_soon()
    {
        var gone = Forget();
        // Another one's turns take the thread along.
        Deadline.Until(
            () =>
            {
                GC.Collect();
                return !gone.TryGetTarget(out _);
            },
            "the end of the client");

        [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
        WeakReference<PollProbe> Forget()
        {
            var probe = new PollProbe(due: static () => long.MaxValue - 1);
            var client = _pool.Attach("gone", probe, []);
            Deadline.Until(() => probe.Turns == 1, "the first turn");
            Settle();
            client.Detach();
            return new WeakReference<PollProbe>(probe);
        }
    }

    [Fact]
    public void Burst_of_kicks_wakes_each_client_of_many()
    {
        const int Count = 600;
        var probes = new PollProbe[Count];
        var clients = new PollClient[Count];
        var kicks = new EventFd[Count];
        for (var i = 0; i < Count; i++)
        {
            kicks[i] = new EventFd();
            probes[i] = new PollProbe();
            clients[i] = _pool.Attach("burst", probes[i], [new PollSource(kicks[i].Descriptor, 0, IsEdge: true)]);
        }

        foreach (var kick in kicks)
            kick.Signal();
        Deadline.Until(() => probes.All(p => p.Signals == 1), "a turn of each");
        foreach (var client in clients)
            client.Detach();
        foreach (var kick in kicks)
            kick.Dispose();
    }

    [Fact]
    public void Nothing_is_called_after_detach_whoever_races()
    {
        using var pool = new PollThreads(2, "polltest");
        var wrongs = new string?[4];
        var races = Enumerable.Range(0, 4).Select(n => Begin(() => wrongs[n] = Race(pool, n))).ToArray();
        Assert.All(races, r => Assert.True(r.Join(Deadline.Milliseconds * 3)));
        Assert.All(wrongs, Assert.Null);
        Assert.Equal(0, pool[0].Clients + pool[1].Clients);

        static string? Race(PollThreads pool, int seed)
        {
            var random = new Random(seed);
            using var kick = new EventFd();
            for (var round = 0; round < 2000; round++)
            {
                var probe = new PollProbe(_ => random.Next(4) != 0);
                var client = pool.Attach("race", probe, [new PollSource(kick.Descriptor, 0, IsEdge: true)], new PollOptions { Spins = round % 2 == 0 });
                for (var i = random.Next(4); i > 0; i--)
                {
                    kick.Signal();
                    client.Kick();
                }

                if (round % 5 == 0)
                    client.MoveTo(pool[round / 5 % 2]);
                client.Detach();
                probe.IsOver = true;
                client.Kick();
                kick.Signal();
                client.Detach();
                if (probe.Wrongs != 0)
                    return $"seed {seed}, round {round}: {probe.Wrongs} calls at the same time or after the end";
            }

            return null;
        }
    }

    [Fact]
    public void Detach_waits_for_the_batch_in_hand_and_for_no_other_client()
    {
        using var entered = new ManualResetEventSlim();
        using var leave = new ManualResetEventSlim();
        var slow = new PollProbe(_ =>
        {
            entered.Set();
            leave.Wait();
            return false;
        });
        var other = new PollProbe();
        var quick = _pool.Attach("other", other, []);
        Deadline.Until(() => other.Turns == 1, "the first turn");
        var client = _pool.Attach("slow", slow, []);
        Assert.True(entered.Wait(Deadline.Milliseconds));

        // The thread is in the slow one's batch.
        quick.Detach();
        other.IsOver = true;
        var detach = Begin(client.Detach);
        Assert.True(detach.IsAlive);
        leave.Set();
        Assert.True(detach.Join(Deadline.Milliseconds));
        Assert.Equal(1, slow.Turns);
        Assert.Equal(0, other.Wrongs);
    }

    [Fact]
    public void Client_may_detach_itself()
    {
        PollClient? client = null;
        using var attached = new ManualResetEventSlim();
        var probe = new PollProbe(_ =>
        {
            attached.Wait();
            client!.Detach();
            return true;
        });
        client = _pool.Attach("self", probe, []);
        attached.Set();
        Deadline.Until(() => client.IsOver && _pool[0].Clients == 0, "the end");
        client.Kick();
        Settle();
        Assert.Equal(1, probe.Turns);
    }

    [Fact]
    public void Work_cannot_move_its_own_client()
    {
        using var pool = new PollThreads(2, "polltest");
        Exception? thrown = null;
        PollClient? client = null;
        using var attached = new ManualResetEventSlim();
        var probe = new PollProbe(_ =>
        {
            attached.Wait();
            thrown ??= Record.Exception(() => client!.MoveTo(client.Thread == pool[0] ? pool[1] : pool[0]));
            return false;
        });
        client = pool.Attach("self", probe, []);
        attached.Set();
        Deadline.Until(() => probe.Turns > 0 && thrown is not null, "the refusal");
        Assert.IsType<InvalidOperationException>(thrown);
        client.Detach();
    }

    // Each kick is for one number that its kicker wrote before; the client looks only when it is kicked, so a kick that is lost leaves a number unseen.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void No_kick_is_lost_while_the_client_moves(bool byEventFd)
    {
        const int Kickers = 4;
        const int Rounds = 300;
        using var pool = new PollThreads(3, "polltest");
        var kicks = Enumerable.Range(0, Kickers).Select(_ => new EventFd()).ToArray();
        var written = new long[Kickers * 16];
        var seen = new long[Kickers * 16];
        var probe = new PollProbe(_ =>
        {
            for (var i = 0; i < Kickers; i++)
                Volatile.Write(ref seen[i * 16], Volatile.Read(ref written[i * 16]));
            return false;
        });
        var sources = kicks.Select((k, i) => new PollSource(k.Descriptor, i, IsEdge: true)).ToArray();
        var client = pool.Attach("mover", probe, sources, new PollOptions { Spins = true });
        var isOver = false;
        var moves = 0;
        string? lost = null;
        var mover = Begin(Move);
        var kickers = Enumerable.Range(0, Kickers).Select(n => Begin(() => Kick(n))).ToArray();
        Assert.All(kickers, k => Assert.True(k.Join(Deadline.Milliseconds * 3)));
        Volatile.Write(ref isOver, true);
        Assert.True(mover.Join(Deadline.Milliseconds));
        Assert.Null(lost);
        Assert.True(moves > 0);
        client.Detach();
        Assert.Equal(0, probe.Wrongs);
        foreach (var kick in kicks)
            kick.Dispose();

        void Kick(int n)
        {
            var random = new Random(n);
            for (var round = 0; round < Rounds; round++)
            {
                for (var i = random.Next(1, 20); i > 0; i--)
                {
                    Interlocked.Increment(ref written[n * 16]);
                    if (byEventFd)
                        kicks[n].Signal();
                    else
                        client.Kick();
                }

                var since = Environment.TickCount64;
                while (Volatile.Read(ref seen[n * 16]) != Volatile.Read(ref written[n * 16]))
                {
                    if (Environment.TickCount64 - since > Deadline.Milliseconds)
                    {
                        Volatile.Write(ref lost, $"what kicker {n} wrote in round {round}");
                        return;
                    }

                    Thread.Yield();
                }
            }
        }

        void Move()
        {
            var random = new Random(99);
            for (; !Volatile.Read(ref isOver); moves++)
            {
                if (random.Next(8) == 0)
                    client.MoveToOwnThread();
                else
                    client.MoveTo(pool[random.Next(3)]);
            }
        }
    }

    [Fact]
    public void Detach_ends_a_client_that_moves()
    {
        using var pool = new PollThreads(2, "polltest");
        for (var round = 0; round < 500; round++)
        {
            var probe = new PollProbe(_ => true);
            var client = pool.Attach("moves", probe, []);
            var move = Begin(() =>
            {
                client.MoveTo(pool[1]);
                client.MoveToOwnThread();
                client.MoveTo(pool[0]);
            });
            client.Detach();
            probe.IsOver = true;
            Assert.True(move.Join(Deadline.Milliseconds));
            Assert.Equal(0, probe.Wrongs);
        }

        Assert.Equal(0, pool[0].Clients + pool[1].Clients);
        Deadline.Until(() => ThreadsNamed("moves") == 0, "the end of the thread");
    }

    [Fact]
    public void Exception_ends_that_client_and_no_other()
    {
        var sink = ServiceThread.Unhandled;
        var told = "";
        ServiceThread.Unhandled = (name, exception) => told = $"{name}: {exception.Message}";
        try
        {
            using var kick = new EventFd();
            var broken = new PollProbe(signals => signals != 0 ? throw new InvalidOperationException("a bug") : false);
            var other = new PollProbe();
            var client = _pool.Attach("broken", broken, [new PollSource(kick.Descriptor, 0, IsEdge: true)]);
            var neighbour = _pool.Attach("other", other, []);
            kick.Signal();
            Deadline.Until(() => client.IsOver, "the end of the client");
            Assert.Equal("a bug", broken.Failure?.Message);
            Assert.Equal("broken: a bug", told);
            var turns = broken.Turns;
            kick.Signal();
            client.Kick();
            neighbour.Kick();
            Deadline.Until(() => other.Turns >= 2, "a turn of the other one");
            Assert.Equal(turns, broken.Turns);
            client.Detach();
            neighbour.Detach();
        }
        finally
        {
            ServiceThread.Unhandled = sink;
        }
    }

    [Fact]
    public void Client_with_a_thread_of_its_own_may_block()
    {
        using var entered = new ManualResetEventSlim();
        using var leave = new ManualResetEventSlim();
        var blocks = new PollProbe(_ =>
        {
            entered.Set();
            leave.Wait();
            return false;
        });
        var other = new PollProbe();
        var client = _pool.Attach("ownthread", blocks, [], new PollOptions { OwnThread = true });
        Assert.True(entered.Wait(Deadline.Milliseconds));
        var neighbour = _pool.Attach("other", other, []);
        Deadline.Until(() => other.Turns == 1, "a turn of the other one");
        Assert.True(client.Thread.IsOwn);
        Assert.Equal(1, ThreadsNamed("ownthread"));
        leave.Set();
        client.Detach();
        neighbour.Detach();
        Deadline.Until(() => ThreadsNamed("ownthread") == 0, "the end of the thread");
    }

    [Fact]
    public void Interval_gives_turns_without_a_signal()
    {
        var timed = new PollProbe();
        var idle = new PollProbe();
        var busy = new PollProbe(_ => true);
        var neighbour = _pool.Attach("idle", idle, []);
        var client = _pool.Attach("timed", timed, [], new PollOptions { IntervalMilliseconds = 1 });
        Deadline.Until(() => timed.Turns > 20, "turns of a sleeping thread");
        Assert.Equal(1, idle.Turns);
        var other = _pool.Attach("busy", busy, []);
        var turns = timed.Turns;
        Deadline.Until(() => timed.Turns > turns + 20, "turns beside a busy client");
        other.Detach();
        client.Detach();
        timed.IsOver = true;
        neighbour.Detach();
        Settle();
        Assert.Equal(0, timed.Wrongs);
    }

    [Fact]
    public void One_eventfd_wakes_two_clients()
    {
        using var kick = new EventFd();
        var one = new PollProbe();
        var two = new PollProbe();
        var a = _pool.Attach("one", one, [new PollSource(kick.Descriptor, 0, IsEdge: true)]);
        var b = _pool.Attach("two", two, [new PollSource(kick.Descriptor, 0, IsEdge: true)]);
        kick.Signal();
        Deadline.Until(() => one.Signals == 1 && two.Signals == 1, "both turns");
        a.Detach();
        var turns = two.Turns;
        kick.Signal();
        Deadline.Until(() => two.Turns > turns, "the turn of the one that is left");
        b.Detach();
    }

    [Fact]
    public void Host_without_room_for_a_thread_says_so()
    {
        ServiceThread.Refuses = name => name.StartsWith("polltest", StringComparison.Ordinal) || name == "refused";
        try
        {
            using var pool = new PollThreads(2, "polltest");
            var error = Assert.Throws<VirtbusException>(() => pool.Attach("shared", new PollProbe(), []));
            Assert.Equal(Errno.EAGAIN, error.Errno);
            Assert.Equal(Errno.EAGAIN, Assert.Throws<VirtbusException>(() => pool.Attach("refused", new PollProbe(), [], new PollOptions { OwnThread = true })).Errno);

            // With one thread there, it takes all.
            ServiceThread.Refuses = name => name == "polltest 1";
            var clients = new[] { pool.Attach("one", new PollProbe(), []), pool.Attach("two", new PollProbe(), []) };
            Assert.All(clients, c => Assert.Equal(pool[0], c.Thread));
            Assert.All(clients, c => c.Detach());
        }
        finally
        {
            ServiceThread.Refuses = null;
        }
    }

    [Fact]
    public void Descriptor_that_cannot_be_waited_on_leaves_nothing_behind()
    {
        using var kick = new EventFd();
        using var file = MemoryFile.Create("no-poll", 4096);
        var probe = new PollProbe();
        PollSource[] sources = [new PollSource(kick.Descriptor, 0, IsEdge: true), new PollSource(file, 1, IsEdge: false)];
        Assert.Equal(Errno.EPERM, Assert.Throws<VirtbusException>(() => _pool.Attach("file", probe, sources)).Errno);
        Assert.Equal(0, _pool[0].Clients);
        kick.Signal();
        Settle();
        Assert.Equal(0, probe.Turns);
    }

    [Fact]
    public void Path_from_kick_to_work_allocates_nothing()
    {
        using var kick = new EventFd();
        long before = 0, after = 0;
        var probe = new PollProbe(_ =>
        {
            after = GC.GetAllocatedBytesForCurrentThread();
            return false;
        });
        var client = _pool.Attach("path", probe, [new PollSource(kick.Descriptor, 0, IsEdge: true)], new PollOptions { Spins = true });
        for (var i = 0; i < 3000; i++)
        {
            var turns = probe.Turns;
            if (i % 2 == 0)
                kick.Signal();
            else
                client.Kick();
            Deadline.Until(() => probe.Turns > turns, "a turn");
            if (i == 1000)
                before = Volatile.Read(ref after);
        }

        client.Detach();
        Assert.Equal(before, after);
    }

    private static Thread Begin(Action work)
    {
        var thread = new Thread(() => work()) { IsBackground = true };
        thread.Start();
        return thread;
    }

    private static int ThreadsNamed(string name)
    {
        var count = 0;
        foreach (var task in Directory.EnumerateDirectories("/proc/self/task"))
        {
            try
            {
                if (File.ReadAllText(Path.Combine(task, "comm")).StartsWith(name, StringComparison.Ordinal))
                    count++;
            }
            catch (IOException)
            {
                // It ended meanwhile.
            }
        }

        return count;
    }

    // All that was asked of the thread before is done when it has done this.
    private void Settle()
    {
        for (var i = 0; i < 3; i++)
        {
            var last = new PollProbe();
            var client = _pool.Attach("settle", last, []);
            Deadline.Until(() => last.Turns > 0, "the last turn");
            client.Detach();
        }
    }

    private void Tick(int times)
    {
        var clock = new PollProbe();
        var client = _pool.Attach("clock", clock, [], new PollOptions { IntervalMilliseconds = 1 });
        Deadline.Until(() => clock.Turns > times, "the time");
        client.Detach();
    }
}
