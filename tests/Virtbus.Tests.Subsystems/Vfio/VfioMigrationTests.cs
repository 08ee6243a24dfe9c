using FsCheck;
using FsCheck.Fluent;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Subsystems.Vfio;

/// <summary>The state machine of a migration (section 6.4 of the semantics; UP-05).</summary>
public sealed class VfioMigrationTests
{
    // The table as written down in the semantics, read here on its own: row and column names, next state or x.
    private const string Table = """
        cur    STOP   RUN    SCOPY  RESUM  RUNP2P PRE    PREP2P
        STOP   STOP   RUNP2P SCOPY  RESUM  RUNP2P RUNP2P RUNP2P
        RUN    RUNP2P RUN    RUNP2P RUNP2P RUNP2P PRE    RUNP2P
        SCOPY  STOP   STOP   SCOPY  STOP   STOP   x      x
        RESUM  STOP   STOP   STOP   RESUM  STOP   STOP   STOP
        RUNP2P STOP   RUN    STOP   STOP   RUNP2P RUN    PREP2P
        PRE    RUN    RUN    PREP2P RUN    RUN    PRE    PREP2P
        PREP2P RUNP2P RUNP2P SCOPY  RUNP2P RUNP2P PRE    PREP2P
        """;

    private static readonly Dictionary<string, VfioMigrationState> Names = new()
    {
        ["STOP"] = VfioMigrationState.Stop,
        ["RUN"] = VfioMigrationState.Running,
        ["SCOPY"] = VfioMigrationState.StopCopy,
        ["RESUM"] = VfioMigrationState.Resuming,
        ["RUNP2P"] = VfioMigrationState.RunningP2P,
        ["PRE"] = VfioMigrationState.PreCopy,
        ["PREP2P"] = VfioMigrationState.PreCopyP2P,
    };

    public static readonly TheoryData<VfioMigrationFlags> AllFlags =
    [
        VfioMigrationFlags.StopCopy,
        VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P,
        VfioMigrationFlags.StopCopy | VfioMigrationFlags.PreCopy,
        VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy,
    ];

    private static readonly Dictionary<(VfioMigrationState, VfioMigrationState), VfioMigrationState?> Reading = Read();

    [Theory]
    [MemberData(nameof(AllFlags))]
    public void Every_pair_of_states_has_the_next_step_of_the_table(VfioMigrationFlags flags)
    {
        var checkedPairs = 0;
        for (var from = 0; from < 9; from++)
        {
            for (var to = 0; to < 9; to++)
            {
                var expected = NextStep((VfioMigrationState)from, (VfioMigrationState)to, flags);
                var ok = VfioMigration.TryGetNextState((VfioMigrationState)from, (VfioMigrationState)to, flags, out var next);
                Assert.True(expected is not null == ok, $"{(VfioMigrationState)from} -> {(VfioMigrationState)to}, {flags}");
                if (ok)
                    Assert.Equal(expected, next);
                checkedPairs++;
            }
        }
        Assert.Equal(81, checkedPairs);
    }

    [Theory]
    [MemberData(nameof(AllFlags))]
    public void Every_pair_of_states_is_reached_by_the_steps_of_the_table_or_refused(VfioMigrationFlags flags)
    {
        foreach (var from in Names.Values.Where(s => Needs(s, flags)))
        {
            foreach (var to in Enumerable.Range(0, 9).Select(n => (VfioMigrationState)n))
            {
                var arcs = new FakeArcs { Flags = flags };
                var migration = new VfioMigration(arcs);
                Assert.True(migration.TrySetState(from, out _, out _));
                arcs.Steps.Clear();
                arcs.Sessions = 0;
                var way = Way(from, to, flags);
                var ok = migration.TrySetState(to, out var stream, out var fault);
                if (way is null)
                {
                    Assert.False(ok);
                    Assert.Equal(Errno.EINVAL, fault.Errno);
                    Assert.Equal(from, migration.State);
                    Assert.Empty(arcs.Steps);
                    continue;
                }
                Assert.True(ok, fault.Message);
                Assert.Equal(to, migration.State);
                Assert.Equal(way, arcs.Steps);
                // A stream comes with a step into the saving states from outside, and with one into RESUMING.
                var opened = way.Count(s => (IsSaving(s.To) && !IsSaving(s.From)) || s.To == VfioMigrationState.Resuming);
                var left = way.Count(s => (IsSaving(s.From) && !IsSaving(s.To)) || s.From == VfioMigrationState.Resuming);
                Assert.True(opened <= 1);
                Assert.Equal(opened == 1, stream is not null);
                Assert.Equal(left, arcs.Sessions);
            }
        }
    }

    [Fact]
    public void Device_that_cannot_stop_and_copy_does_not_migrate() =>
        Assert.Throws<ArgumentException>(() => new VfioMigration(new FakeArcs { Flags = VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy }));

    [Fact]
    public void Failed_step_leaves_the_state_before_it()
    {
        var arcs = new FakeArcs { Flags = VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P };
        arcs.OnMove = to => to == VfioMigrationState.StopCopy ? new Fault(Errno.ENOMEM, "no room") : Fault.None;
        var migration = new VfioMigration(arcs);
        Assert.False(migration.TrySetState(VfioMigrationState.StopCopy, out var stream, out var fault));
        Assert.Equal(new Fault(Errno.ENOMEM, "no room"), fault);
        Assert.Null(stream);
        Assert.Equal(VfioMigrationState.Stop, migration.State);
        arcs.OnMove = null;
        Assert.True(migration.TrySetState(VfioMigrationState.Running, out _, out _));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Error_is_left_by_reset_only(bool reportsStep)
    {
        var arcs = new FakeArcs { Flags = VfioMigrationFlags.StopCopy };
        var migration = new VfioMigration(arcs);
        Assert.True(migration.TrySetState(VfioMigrationState.Resuming, out var stream, out _));
        arcs.OnMove = _ =>
        {
            migration.Fail();
            return reportsStep ? Fault.None : new Fault(Errno.EIO, "lost");
        };
        Assert.False(migration.TrySetState(VfioMigrationState.Running, out _, out var fault));
        Assert.Equal(Errno.EIO, fault.Errno);
        Assert.Equal(VfioMigrationState.Error, migration.State);
        Assert.Equal(1, arcs.Sessions);
        Assert.False(stream!.TryWrite([1], out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        arcs.OnMove = null;
        foreach (var state in Names.Values)
        {
            Assert.False(migration.TrySetState(state, out _, out fault));
            Assert.Equal(Errno.EINVAL, fault.Errno);
        }
        migration.Reset();
        Assert.Equal(VfioMigrationState.Running, migration.State);
        Assert.True(migration.TrySetState(VfioMigrationState.Stop, out _, out _));
    }

    [Fact]
    public void Pre_copy_reads_until_nothing_is_new_and_ends_in_stop_copy()
    {
        var arcs = new FakeArcs { Flags = VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy };
        arcs.Saved.Append(1, new byte[84]);
        var migration = new VfioMigration(arcs);
        Assert.True(migration.TrySetState(VfioMigrationState.PreCopy, out var stream, out _));
        Assert.True(stream!.TryGetPreCopyInfo(out var initial, out var dirty, out _));
        Assert.Equal((100ul, 5ul), (initial, dirty));
        var buffer = new byte[1000];
        Assert.True(stream.TryRead(buffer, out var count, out _));
        Assert.Equal(100, count);
        Assert.True(stream.TryGetPreCopyInfo(out initial, out _, out _));
        Assert.Equal(0ul, initial);
        Assert.False(stream.TryRead(buffer, out _, out var fault));
        Assert.Equal(Errno.ENOMSG, fault.Errno);
        Assert.False(stream.TryWrite([1], out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.True(migration.TrySetState(VfioMigrationState.StopCopy, out var second, out _));
        Assert.Null(second);
        Assert.Equal(0, arcs.Sessions);
        arcs.Saved.Append(2, new byte[4]);
        Assert.False(stream.TryGetPreCopyInfo(out _, out _, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.True(stream.TryRead(buffer, out count, out _));
        Assert.Equal(20, count);
        Assert.True(stream.TryRead(buffer, out count, out _));
        Assert.Equal(0, count);
        Assert.True(migration.TrySetState(VfioMigrationState.Stop, out _, out _));
        Assert.Equal(1, arcs.Sessions);
        Assert.False(stream.TryRead(buffer, out _, out fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
    }

    [Fact]
    public void Stream_of_an_old_session_does_not_reach_the_new_one()
    {
        var arcs = new FakeArcs { Flags = VfioMigrationFlags.StopCopy };
        var migration = new VfioMigration(arcs);
        Assert.True(migration.TrySetState(VfioMigrationState.Resuming, out var old, out _));
        migration.Reset();
        Assert.True(migration.TrySetState(VfioMigrationState.Resuming, out var stream, out _));
        Assert.False(old!.TryWrite([1], out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.True(stream!.TryWrite([2], out _));
        Assert.False(stream.TryRead(new byte[1], out _, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.Equal([2], arcs.Loaded);
        Assert.Equal(4711ul, migration.DataSize);
        arcs.WriteFault = new Fault(Errno.EINVAL, "not a state");
        Assert.False(stream.TryWrite([3], out fault));
        Assert.Equal("not a state", fault.Message);
    }

    [Fact]
    public void Records_survive_any_cut()
    {
        var records = Gen.Zip(Gen.Choose(0, 5), Gen.Choose(0, 300)).ListOf().ToArbitrary();
        Check.QuickThrowOnFailure(Prop.ForAll(records, ArbMap.Default.ArbFor<int>(), (list, seed) =>
        {
            var random = new Random(seed);
            var writer = new VfioRecordWriter();
            var sent = new List<(uint, bool, byte[])>();
            foreach (var (tag, size) in list)
            {
                var payload = new byte[size];
                random.NextBytes(payload);
                sent.Add(((uint)tag, tag % 2 == 0, payload));
                writer.Append((uint)tag, payload, tag % 2 == 0);
            }
            var total = writer.Pending;
            var reader = new VfioRecordReader(300);
            var got = new List<(uint, bool, byte[])>();
            bool Receive(uint tag, bool optional, byte[] payload, out Fault fault)
            {
                got.Add((tag, optional, payload));
                fault = Fault.None;
                return true;
            }
            var read = 0ul;
            while (writer.Pending > 0)
            {
                var buffer = new byte[random.Next(1, 50)];
                var count = writer.Read(buffer);
                read += (ulong)count;
                Assert.True(reader.TryWrite(buffer.AsSpan(0, count), Receive, out _));
            }
            Assert.Equal(total, read);
            Assert.True(reader.IsBetweenRecords);
            Assert.Equal(sent.Count, got.Count);
            for (var i = 0; i < sent.Count; i++)
            {
                Assert.Equal((sent[i].Item1, sent[i].Item2), (got[i].Item1, got[i].Item2));
                Assert.Equal(sent[i].Item3, got[i].Item3);
            }
        }));
    }

    [Fact]
    public void Record_that_is_too_large_or_has_unknown_flags_is_refused()
    {
        var reader = new VfioRecordReader(64);
        var header = new byte[16];
        header[0] = 65;
        Assert.False(reader.TryWrite(header, Never, out var fault));
        Assert.Equal(Errno.ENOMEM, fault.Errno);
        reader.Clear();
        header[0] = 1;
        header[7] = 0x80;
        Assert.False(reader.TryWrite(header, Never, out fault));
        Assert.Equal(Errno.ENOMEM, fault.Errno);
        reader.Clear();
        header[7] = 0;
        header[8] = 2;
        Assert.False(reader.TryWrite(header, Never, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        reader.Clear();
        header[8] = 1;
        Assert.True(reader.TryWrite(header, Never, out _));
        Assert.False(reader.IsBetweenRecords);
        reader.Clear();
        Assert.True(reader.IsBetweenRecords);
    }

    private static bool Never(uint tag, bool isOptional, byte[] payload, out Fault fault) => throw new InvalidOperationException("no record is complete");

    private static Dictionary<(VfioMigrationState, VfioMigrationState), VfioMigrationState?> Read()
    {
        var rows = Table.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(l => l.Split(' ', StringSplitOptions.RemoveEmptyEntries)).ToArray();
        var table = new Dictionary<(VfioMigrationState, VfioMigrationState), VfioMigrationState?>();
        foreach (var row in rows[1..])
        {
            for (var column = 1; column < row.Length; column++)
                table[(Names[row[0]], Names[rows[0][column]])] = Names.TryGetValue(row[column], out var next) ? next : null;
        }
        return table;
    }

    private static bool Needs(VfioMigrationState state, VfioMigrationFlags flags) => state switch
    {
        VfioMigrationState.RunningP2P => flags.HasFlag(VfioMigrationFlags.P2P),
        VfioMigrationState.PreCopy => flags.HasFlag(VfioMigrationFlags.PreCopy),
        VfioMigrationState.PreCopyP2P => flags.HasFlag(VfioMigrationFlags.PreCopy) && flags.HasFlag(VfioMigrationFlags.P2P),
        _ => (int)state is >= 1 and <= 4,
    };

    private static VfioMigrationState? NextStep(VfioMigrationState from, VfioMigrationState to, VfioMigrationFlags flags)
    {
        if (!Needs(from, flags) || !Needs(to, flags))
            return null;
        var next = Reading[(from, to)];
        while (next is { } n && !Needs(n, flags))
            next = Reading[(n, to)];
        return next;
    }

    private static List<(VfioMigrationState From, VfioMigrationState To)>? Way(VfioMigrationState from, VfioMigrationState to, VfioMigrationFlags flags)
    {
        var way = new List<(VfioMigrationState, VfioMigrationState)>();
        while (from != to)
        {
            if (NextStep(from, to, flags) is not { } next)
                return null;
            way.Add((from, next));
            from = next;
        }
        return Needs(to, flags) ? way : null;
    }

    private static bool IsSaving(VfioMigrationState state) =>
        state is VfioMigrationState.StopCopy or VfioMigrationState.PreCopy or VfioMigrationState.PreCopyP2P;
}
