using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>
/// The migration of one device (VFIO's protocol, version 2): finds the way from state to state by a table, has the driver make the steps,
/// and guards the streams. Safe from any thread; the driver sees one call at a time.
/// </summary>
public sealed class VfioMigration : IVfioMigrationOps
{
    private const VfioMigrationState None = VfioMigrationState.Error;

    // Row: where it is. Column: where it shall go. The next step on the way, None where there is no way. In the order of the states' numbers.
    private static readonly VfioMigrationState[][] Next = MakeTable();

    private readonly Lock _lock = new();
    private readonly IVfioMigrationArcs _arcs;
    private volatile VfioMigrationState _state = VfioMigrationState.Running;
    private Session? _session;

    /// <summary>Makes one, in RUNNING.</summary>
    /// <param name="arcs">The driver's part.</param>
    /// <exception cref="ArgumentException">The driver cannot even stop and copy.</exception>
    public VfioMigration(IVfioMigrationArcs arcs)
    {
        ArgumentNullException.ThrowIfNull(arcs);
        if (!arcs.Flags.HasFlag(VfioMigrationFlags.StopCopy))
            throw new ArgumentException("A device that migrates can stop and copy at least.", nameof(arcs));
        _arcs = arcs;
        Flags = arcs.Flags;
    }

    /// <inheritdoc/>
    public VfioMigrationFlags Flags { get; }

    /// <inheritdoc/>
    public VfioMigrationState State => _state;

    /// <inheritdoc/>
    public ulong DataSize
    {
        get
        {
            lock (_lock)
                return _arcs.DataSize;
        }
    }

    /// <summary>Whether a device with these abilities has a state.</summary>
    /// <param name="state">The state.</param>
    /// <param name="flags">What the device can do.</param>
    public static bool Supports(VfioMigrationState state, VfioMigrationFlags flags)
    {
        var needed = state switch
        {
            VfioMigrationState.Stop or VfioMigrationState.Running or VfioMigrationState.StopCopy or VfioMigrationState.Resuming => VfioMigrationFlags.StopCopy,
            VfioMigrationState.RunningP2P => VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P,
            VfioMigrationState.PreCopy => VfioMigrationFlags.StopCopy | VfioMigrationFlags.PreCopy,
            VfioMigrationState.PreCopyP2P => VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy,
            _ => VfioMigrationFlags.None,
        };
        return needed != VfioMigrationFlags.None && (flags & needed) == needed;
    }

    /// <summary>The next step on the way from a state to another, over states that the device has.</summary>
    /// <param name="from">Where it is.</param>
    /// <param name="to">Where it shall go.</param>
    /// <param name="flags">What the device can do.</param>
    /// <param name="next">The next state; <paramref name="to"/> itself when it is there.</param>
    /// <returns>False when there is no way, or the device does not have one of the two states.</returns>
    public static bool TryGetNextState(VfioMigrationState from, VfioMigrationState to, VfioMigrationFlags flags, out VfioMigrationState next)
    {
        next = None;
        if (!Supports(from, flags) || !Supports(to, flags))
            return false;
        next = Next[(int)from][(int)to];
        // A state that the device does not have is passed over: the table leads on from there.
        while (next != None && !Supports(next, flags))
            next = Next[(int)next][(int)to];
        return next != None;
    }

    /// <inheritdoc/>
    public bool TrySetState(VfioMigrationState state, out VfioMigrationStream? stream, out Fault fault)
    {
        stream = null;
        lock (_lock)
        {
            if (!TryGetNextState(_state, state, Flags, out _))
            {
                fault = _state == VfioMigrationState.Error
                    ? new Fault(Errno.EINVAL, "the device is in an error; only a reset ends that")
                    : new Fault(Errno.EINVAL, "there is no way to that migration state from here");
                return false;
            }
            while (_state != state)
            {
                if (!TryGetNextState(_state, state, Flags, out var next))
                {
                    // The driver called Fail in a step that it reported as done.
                    fault = new Fault(Errno.EIO, "the device failed on its way to that migration state");
                    return false;
                }
                if (!TryStep(next, out var opened, out fault))
                    return false;
                stream = opened ?? stream;
            }
            fault = Fault.None;
            return true;
        }
    }

    /// <summary>The driver lost control of the device: the state is ERROR until a reset, and a session is over.</summary>
    public void Fail()
    {
        lock (_lock)
        {
            _state = VfioMigrationState.Error;
            EndSession();
        }
    }

    /// <summary>The device was reset, opened or closed: the state is RUNNING, and a session is over.</summary>
    /// <param name="ended">What the driver does then, no step of it being under way; null for nothing.</param>
    public void Reset(Action? ended = null)
    {
        lock (_lock)
        {
            EndSession();
            _state = VfioMigrationState.Running;
            ended?.Invoke();
        }
    }

    private bool TryStep(VfioMigrationState next, out VfioMigrationStream? stream, out Fault fault)
    {
        stream = null;
        var from = _state;
        if (!_arcs.TryMove(from, next, out fault))
            return false;
        if (_state == VfioMigrationState.Error)
            return true;
        if (IsSaving(from) != IsSaving(next) || from == VfioMigrationState.Resuming)
            EndSession();
        _state = next;
        if (_session is null && (IsSaving(next) || next == VfioMigrationState.Resuming))
            stream = _session = new Session(this);
        return true;
    }

    private void EndSession()
    {
        if (_session is null)
            return;
        _session = null;
        _arcs.EndSession();
    }

    private static bool IsSaving(VfioMigrationState state) =>
        state is VfioMigrationState.StopCopy or VfioMigrationState.PreCopy or VfioMigrationState.PreCopyP2P;

    private static VfioMigrationState[][] MakeTable()
    {
        const VfioMigrationState Stop = VfioMigrationState.Stop;
        const VfioMigrationState Run = VfioMigrationState.Running;
        const VfioMigrationState Copy = VfioMigrationState.StopCopy;
        const VfioMigrationState Resume = VfioMigrationState.Resuming;
        const VfioMigrationState RunP2P = VfioMigrationState.RunningP2P;
        const VfioMigrationState Pre = VfioMigrationState.PreCopy;
        const VfioMigrationState PreP2P = VfioMigrationState.PreCopyP2P;
        return
        [
            // to:     Error Stop    Run     Copy    Resume  RunP2P  Pre     PreP2P
            /* Error  */ [None, None, None, None, None, None, None, None],
            /* Stop   */ [None, Stop, RunP2P, Copy, Resume, RunP2P, RunP2P, RunP2P],
            /* Run    */ [None, RunP2P, Run, RunP2P, RunP2P, RunP2P, Pre, RunP2P],
            /* Copy   */ [None, Stop, Stop, Copy, Stop, Stop, None, None],
            /* Resume */ [None, Stop, Stop, Stop, Resume, Stop, Stop, Stop],
            /* RunP2P */ [None, Stop, Run, Stop, Stop, RunP2P, Run, PreP2P],
            /* Pre    */ [None, Run, Run, PreP2P, Run, Run, Pre, PreP2P],
            /* PreP2P */ [None, RunP2P, RunP2P, Copy, RunP2P, RunP2P, Pre, PreP2P],
        ];
    }

    // What the user holds. It is over when another session, or none, has taken its place.
    private sealed class Session(VfioMigration migration) : VfioMigrationStream
    {
        public override bool TryRead(Span<byte> destination, out int count, out Fault fault)
        {
            lock (migration._lock)
            {
                count = 0;
                if (!IsLive(out fault))
                    return false;
                if (!IsSaving(migration._state))
                    return Refuse(Errno.EINVAL, "the stream of a device that resumes is written, not read", out fault);
                if (destination.IsEmpty)
                    return true;
                if (!migration._arcs.TryRead(destination, out count, out fault))
                    return false;
                return count > 0 || migration._state == VfioMigrationState.StopCopy
                    || Refuse(Errno.ENOMSG, "nothing more to copy for now", out fault);
            }
        }

        public override bool TryWrite(ReadOnlySpan<byte> source, out Fault fault)
        {
            lock (migration._lock)
            {
                if (!IsLive(out fault))
                    return false;
                if (migration._state != VfioMigrationState.Resuming)
                    return Refuse(Errno.EINVAL, "the stream of a device that is saved is read, not written", out fault);
                return source.IsEmpty || migration._arcs.TryWrite(source, out fault);
            }
        }

        public override bool TryGetPreCopyInfo(out ulong initialBytes, out ulong dirtyBytes, out Fault fault)
        {
            lock (migration._lock)
            {
                initialBytes = dirtyBytes = 0;
                if (!IsLive(out fault))
                    return false;
                if (migration._state is not (VfioMigrationState.PreCopy or VfioMigrationState.PreCopyP2P))
                    return Refuse(Errno.EINVAL, "the device does not pre-copy", out fault);
                migration._arcs.GetPreCopyInfo(out initialBytes, out dirtyBytes);
                return true;
            }
        }

        private bool IsLive(out Fault fault)
        {
            fault = Fault.None;
            return migration._session == this || Refuse(Errno.ENODEV, "the migration session of this stream is over", out fault);
        }

        private static bool Refuse(Errno errno, string why, out Fault fault)
        {
            fault = new Fault(errno, why);
            return false;
        }
    }
}
