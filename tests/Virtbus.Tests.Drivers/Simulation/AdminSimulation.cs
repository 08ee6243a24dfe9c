using System.Text;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Hardware.Probe;
using Virtbus.Platform;
using Virtbus.Tests.Drivers.Virtio;
using Virtbus.Virtio.Admin;

namespace Virtbus.Tests.Drivers.Simulation;

/// <summary>
/// The administration queue under a seed: threads give commands for virtual functions that come and go, to a device that answers late, short, wrong, twice or
/// never, tells of it or not, breaks, and is reset at any moment. One thread has the turn at a time, and the seed says which. Each command ends, and by an
/// error only that something gives a reason for; nothing that the device does is for another's command, and nothing of it reaches memory that is free.
/// </summary>
internal sealed class AdminSimulation : ISeededRun
{
    private const int Callers = 3;
    private const int Functions = 2;
    private const int Calls = 12;
    private const int LastStep = 800;
    private const byte LastPlace = 19;

    private readonly Action<AdminSimulation>? _sabotage;
    private readonly SeededScheduler _scheduler;
    private readonly SeededThreads _threads;
    private readonly StringBuilder? _trace;
    private readonly AdminScript _script = new() { State = [.. Enumerable.Range(0, 300).Select(static i => (byte)i)] };
    private readonly PciDevice _owner;
    private readonly VirtioPciAdministration _administration;
    private readonly HashSet<(int, uint)> _objects = [];
    private readonly HashSet<ushort> _said = [];
    private readonly List<SeededThreads.One> _callers = [];
    private readonly List<SeededThreads.One> _others = [];
    private readonly List<AdminHand> _gone = [];
    private readonly List<(AdminHand Hand, AdminGiven Given)> _forgotten = [];
    private readonly PassingTime _passing;
    private IReadOnlyList<PciDevice> _functions = [];
    private ulong _hash = 14695981039346656037;
    private string? _failure;
    private int _steps;
    private bool _isEnding;
    private bool _isShut;
    private bool _mayTell;
    // How often something happened that a command may end by.
    private int _ends, _breaks, _spoils;

    public AdminSimulation(ulong seed, Action<AdminSimulation>? sabotage = null, bool trace = false)
    {
        _sabotage = sabotage;
        _trace = trace ? new StringBuilder() : null;
        _scheduler = new SeededScheduler(seed);
        _threads = new SeededThreads(Choose);
        _passing = new PassingTime(Time, _threads);
        Monitor = new SimMonitor(_threads);
        var fabric = new Fabric(new FabricOptions { Scheduler = _scheduler, Time = new ManualTime() });
        var bus = fabric.RegisterBus(new PciBus());
        PciDevice? owner = null;
        _scheduler.Run(async () =>
        {
            await bus.AddHostBridgeAsync();
            owner = await bus.PlugAsync(new ScratchFunction(Functions));
        });
        _owner = owner!;
        SetFunctions(Functions);
        _administration = new VirtioPciAdministration(_owner, new SimMonitor(_threads));
        _owner.SetDriverData(_administration);
    }

    public ulong Hash => _hash ^ (ulong)_steps;

    public string Trace => _trace?.ToString() ?? "";

    /// <summary>Commands that were done, that ended by a reset, and whose answer was compared.</summary>
    public int Done { get; private set; }

    public int Reset { get; private set; }

    public int Compared { get; private set; }

    internal ManualTime Time { get; } = new();

    internal SimMonitor Monitor { get; private set; }

    /// <summary>The queue that there is.</summary>
    internal AdminHand? Hand { get; private set; }

    internal AdminScript Script => _script;

    /// <summary>What the device was given and has not answered.</summary>
    internal List<AdminGiven> Pending { get; } = [];

    public string? Run()
    {
        try
        {
            for (var i = 0; i < Callers; i++)
            {
                var number = i;
                _callers.Add(_threads.Start($"caller{i}", () => Call(number)));
            }

            _others.Add(_threads.Start("driver", Drive));
            _threads.Run();
            if (_failure is null)
                CheckEnd();
        }
        catch (Exception e)
        {
            Fail(e.ToString());
        }

        return _failure;
    }

    /// <summary>Answers one command with what another is to get.</summary>
    internal void Mix(AdminGiven one, AdminGiven other) => Answer(
        one,
        answer =>
        {
            var (_, result) = _script.Answer(other.Command, other.Data, other.AnswerLength - AdminAnswer.Size)!.Value;
            result.CopyTo(answer.AsSpan(AdminAnswer.Size));
            return answer;
        });

    /// <summary>Answers as a device does.</summary>
    internal void Answer(AdminGiven given, Func<byte[], byte[]>? change = null, int? length = null, uint? head = null)
    {
        if (_script.Answer(given.Command, given.Data, given.AnswerLength - AdminAnswer.Size) is not var (status, result))
            return;
        var answer = new byte[Math.Min(AdminAnswer.Size + result.Length, given.AnswerLength)];
        new AdminAnswer(status, 0).Write(answer);
        result.AsSpan(0, answer.Length - AdminAnswer.Size).CopyTo(answer.AsSpan(AdminAnswer.Size));
        answer = change?.Invoke(answer) ?? answer;
        _said.Add(AdminAnswer.Read(answer.AsSpan(0, Math.Clamp(length ?? answer.Length, 0, AdminAnswer.Size))).Status);
        Pending.Remove(given);
        Hand!.AnswerRaw(given, answer, (uint)(length ?? answer.Length), head ?? given.Head);
        _mayTell = true;
    }

    private int Next(int bound) => _scheduler.Next(bound);

    private void Fail(string what) => _failure ??= $"step {_steps}: {what}";

    private void Require(bool holds, string what)
    {
        if (!holds)
            Fail(what);
    }

    private void Note(string what)
    {
        foreach (var c in what)
            _hash = (_hash ^ c) * 1099511628211;
        _trace?.Append(_steps).Append(' ').Append(what).Append('\n');
    }

    // What happens until a thread has the turn; null when all is over.
    private SeededThreads.One? Choose()
    {
        try
        {
            while (_failure is null && _threads.Alive.Any())
            {
                if (Step() is { } one)
                    return one;
            }
        }
        catch (Exception e)
        {
            Fail(e.ToString());
        }

        return null;
    }

    private SeededThreads.One? Step()
    {
        _steps++;
        _sabotage?.Invoke(this);
        if (_callers.Concat(_others).FirstOrDefault(static o => o.Error is not null) is { } failed)
            Fail($"{failed.Name}: {failed.Error}");
        if (!_isEnding && (_steps == LastStep || _callers.TrueForAll(static o => o.IsOver)))
        {
            Note("the end comes");
            _isEnding = true;
            Shut();
        }

        // Whoever can go on does so at the end; what can't then never will.
        var ready = _threads.Ready;
        if (ready.Count > 0 && (_isEnding || Next(3) > 0))
        {
            var one = ready[Next(ready.Count)];
            Note(one.Name);
            return one;
        }

        if (_isEnding)
            Fail($"{string.Join(", ", _threads.Alive.Select(static o => o.Name))} wait for ever");
        else
            Act();
        return null;
    }

    // What happens outside of the driver.
    private void Act()
    {
        switch (Next(24))
        {
            case 0 when Next(4) == 0:
                Note("reset");
                Shut();
                break;
            case 1 when Next(4) == 0:
                var count = _owner.VirtualFunctions.Count == 0 ? Functions : 0;
                Note($"{count} functions");
                SetFunctions(count);
                break;
            case 2:
                Note("time");
                Time.Advance(TimeSpan.FromMilliseconds(Next(2000)));
                break;
            case 3 when Next(6) == 0:
                // More than any may take.
                Note("much time");
                Time.Advance(VirtioPciAdminQueue.Patience);
                break;
            case 4 when Next(8) == 0 && Hand is { } broken && !_isShut:
                Note("break");
                _breaks++;
                broken.Queue.Break(new Fault(Next(2) == 0 ? Errno.ENODEV : Errno.EIO, "it broke"));
                break;
            case < 12:
                if (Hand is { } told && _mayTell)
                {
                    Note("interrupt");
                    _mayTell = false;
                    told.Queue.Interrupt();
                }

                break;
            default:
                Serve();
                break;
        }
    }

    // The device looks, and does something with one of what it has.
    private void Serve()
    {
        if (Hand is not { } hand)
            return;
        foreach (var given in hand.Look().Where(g => !Pending.Contains(g) && !_forgotten.Contains((hand, g))))
            Pending.Add(given);
        if (Pending.Count == 0)
            return;
        var one = Pending[Next(Pending.Count)];
        var what = Next(80);
        Note($"answers {one.Command.Opcode:x} of {one.Command.MemberId}: {what}");
        _spoils += what < 6 ? 1 : 0;
        switch (what)
        {
            case 0:
                Answer(one, static answer => answer[..AdminAnswer.Size]);
                break;
            case 1:
                Answer(one, length: Next(AdminAnswer.Size));
                break;
            case 2:
                Answer(one, answer => [.. BitConverter.GetBytes((ushort)Next(32)), .. answer[2..]]);
                break;
            case 3:
                Answer(one, answer => [.. answer.Select(b => (byte)(b ^ (Next(4) == 0 ? 1 << Next(8) : 0)))]);
                break;
            case 4 when Next(3) == 0:
                // A name, or a length, that it was not given: the driver breaks the ring.
                _breaks++;
                if (Next(2) == 0)
                    Answer(one, head: (uint)Next(2 * VirtioPciAdminQueue.Depth));
                else
                    Answer(one, length: int.MaxValue);
                break;
            case 5 when Next(2) == 0:
                _breaks++;
                Answer(one);
                hand.AnswerRaw(one, new byte[AdminAnswer.Size], AdminAnswer.Size, one.Head);
                break;
            case 6 when Next(2) == 0:
                // Never; or when its memory is long gone.
                Pending.Remove(one);
                _forgotten.Add((hand, one));
                break;
            default:
                Answer(one);
                break;
        }
    }

    private void SetFunctions(int count)
    {
        _script.HasMembers = count > 0;
        _scheduler.Run(() => _owner.SetVirtualFunctionsAsync(count).AsTask());
        if (count > 0)
            _functions = _owner.VirtualFunctions;
    }

    private void Shut()
    {
        if (Hand is null || _isShut)
            return;
        _isShut = true;
        _ends++;
        Hand.Admin.Shut();
    }

    // As the driver does at each reset: no command any more; the device lets go; what is with it ends; its memory is free.
    private void Drive()
    {
        while (!_isEnding)
        {
            // It may be told of what the one before left undone.
            (Monitor, _isShut) = (new SimMonitor(_threads), false);
            _script.Reset();
            Pending.Clear();
            _objects.Clear();
            Hand = new AdminHand(Next(2) == 0 ? 4 : VirtioPciAdminQueue.Depth, _passing, Monitor);
            var admin = Hand.Admin;
            _others.Add(_threads.Start("start", () => _administration.Start(admin)));
            _threads.Await(() => _isShut);
            // The device has until here for what it was given.
            var late = Pending.Concat(_forgotten.Where(f => f.Hand == Hand).Select(static f => f.Given)).ToList();
            _administration.Stop();
            Hand.Admin.Dispose();
            var gone = Hand;
            Hand = null;
            _gone.Add(gone);
            Require(gone.Mapped == 0, $"{gone.Mapped} ranges of memory are mapped behind the reset");
            foreach (var given in late)
                Require(!gone.AnswerRaw(given, new byte[AdminAnswer.Size], AdminAnswer.Size, given.Head), "a late answer reached memory behind the reset");
            _threads.Pass();
        }
    }

    private void Call(int caller)
    {
        for (var call = 0; call < Calls && !_isEnding; call++)
        {
            var vf = _functions[Next(_functions.Count)];
            var (ends, start) = (_isShut ? _ends - 1 : _ends, Time.Now);
            var isDone = Call(caller, vf, _spoils, out var fault);
            Note($"caller{caller} {(isDone ? "done" : fault.Errno.ToString())}");
            if (isDone)
            {
                Done++;
                continue;
            }

            switch (fault.Errno)
            {
                case Errno.EIO:
                    Require(_ends > ends || Hand is null || Hand.Breaks.Count > 0, $"a command ended with EIO, and there was no reset: {fault.Message}");
                    Reset++;
                    break;
                case Errno.ENODEV:
                    Require(_breaks > 0, $"a command ended with ENODEV, and the device is there: {fault.Message}");
                    break;
                case Errno.ETIMEDOUT:
                    Require(Time.Now - start >= VirtioPciAdminQueue.Patience, "a command ended with ETIMEDOUT, and had time");
                    break;
                case Errno.EOPNOTSUPP:
                    call--;
                    break;
                default:
                    // The driver itself knows of what there is none, or none more; and what means nothing to it is EINVAL.
                    Require(fault.Errno is Errno.ENXIO or Errno.ENOSPC || _said.Contains((ushort)fault.Errno) || (fault.Errno == Errno.EINVAL && _said.Any(static s => s != 0)), $"a command ended with {fault}, which the device did not say");
                    break;
            }

            _threads.Pass();
        }
    }

    private bool Call(int caller, PciDevice vf, int spoils, out Fault fault)
    {
        var member = (ulong)vf.VirtualFunctionIndex + 1;
        var place = (byte)(LastPlace - caller);
        Span<byte> byteThere = stackalloc byte[1];
        var mine = _objects.Where(o => o.Item1 == vf.VirtualFunctionIndex).Select(static o => o.Item2).Order().ToList();
        switch (Next(8))
        {
            case 0 or 1:
                byteThere[0] = (byte)Next(256);
                if (!VirtioPciAdmin.TryLegacyCommonWrite(vf, place, byteThere, out fault))
                    return false;
                Compare(spoils, _script.RegistersOf(member)[place] == byteThere[0], "a write that is done is not");
                return true;
            case 2 or 3:
                if (!VirtioPciAdmin.TryLegacyCommonRead(vf, place, byteThere, out fault))
                    return false;
                Compare(spoils, _script.RegistersOf(member)[place] == byteThere[0], "a read has what is not there");
                return true;
            case 4:
                if (!VirtioPciAdmin.TryDevicePartsCreate(vf, (byte)Next(2), out var id, out fault))
                    return false;
                _objects.Add((vf.VirtualFunctionIndex, id));
                return true;
            case 5 when mine.Count > 0:
                _objects.Remove((vf.VirtualFunctionIndex, mine[0]));
                return VirtioPciAdmin.TryDevicePartsDestroy(vf, mine[0], out fault);
            case 6 when mine.Count > 0:
                var parts = new byte[600];
                if (!VirtioPciAdmin.TryDevicePartsGet(vf, mine[0], parts, out var count, out fault))
                    return false;
                Compare(spoils, parts.AsSpan(0, count).SequenceEqual(_script.State), "parts are not those of the device");
                return true;
            default:
                return VirtioPciAdmin.TryModeSet(vf, Next(2) == 0, out fault);
        }
    }

    // What a device answers that does wrong meanwhile is anything.
    private void Compare(int spoils, bool isSame, string what)
    {
        if (spoils != _spoils)
            return;
        Compared++;
        Require(isSame, what);
    }

    private void CheckEnd()
    {
        Require(Time.Timers == 0, $"{Time.Timers} timers are left");
        foreach (var (hand, given) in _forgotten)
            Require(!hand.AnswerRaw(given, new byte[AdminAnswer.Size], AdminAnswer.Size, given.Head), "a late answer reached memory that is free");
        foreach (var hand in _gone)
            Require(hand.Mapped == 0, $"{hand.Mapped} ranges of memory are mapped at the end");
    }
}
