using System.Runtime.CompilerServices;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Core;

namespace Virtbus.Tests;

/// <summary>
/// What the simulations share: a fabric on one thread under a seed, a hash of every step, a trace for the replay, what went wrong first, and the
/// order of events.
/// </summary>
internal abstract class SeededProgram : ISeededRun
{
    private readonly StringBuilder? _trace;
    private readonly RecordedLog _log = new();
    private readonly Dictionary<string, string> _lastEvent = [];
    private int _logged;
    private ulong _hash = 14695981039346656037;
    private string? _failure;
    private long _eventsSeen;

    protected SeededProgram(ulong seed, bool trace, TimeProvider time)
    {
        Seed = seed;
        _trace = trace ? new StringBuilder() : null;
        Scheduler = new SeededScheduler(seed);
        Fabric = new Fabric(new FabricOptions { Scheduler = Scheduler, Time = time, UeventHistory = 1 << 12, LoggerFactory = trace ? _log : NullLoggerFactory.Instance });
    }

    public ulong Seed { get; }

    public Fabric Fabric { get; }

    /// <summary>A number that follows from every step: two runs with the same one did the same.</summary>
    public ulong Hash => _hash ^ (ulong)Scheduler.Steps;

    public string Trace => _trace?.ToString() ?? "";

    protected SeededScheduler Scheduler { get; }

    protected bool HasFailed => _failure is not null;

    /// <summary>Nothing is left to chance any more: what was begun is ended.</summary>
    protected bool IsEnding { get; set; }

    /// <summary>Runs to the end; what went wrong first, or null.</summary>
    public string? Run()
    {
        try
        {
            Scheduler.Run(ProgramAsync);
        }
        catch (Exception e)
        {
            Require(false, e + DescribeWaits());
        }
        return _failure;
    }

    public bool Chance(int oneIn) => !IsEnding && Scheduler.Next(oneIn) == 0;

    public int Next(int bound) => Scheduler.Next(bound);

    public async ValueTask PauseAsync()
    {
        for (var n = Scheduler.Next(3); n > 0; n--)
            await Task.Yield();
    }

    public void Require(bool holds, string what)
    {
        if (!holds)
            _failure ??= $"step {Scheduler.Steps}: {what}";
    }

    public void Require(bool holds, [InterpolatedStringHandlerArgument(nameof(holds))] ref FailureText what)
    {
        if (!holds)
            Require(false, what.Take());
    }

    protected abstract Task ProgramAsync();

    /// <summary>Who waits for what, when nothing goes on.</summary>
    protected virtual string DescribeWaits()
    {
        var text = new StringBuilder().Append("\n").Append(Fabric.WorkCount).Append(" pieces of work");
        foreach (var device in Fabric.AllDevices.Where(d => d.Holder is not null))
        {
            text.Append("\n").Append(device).Append(' ').Append(device.Binding.State).Append(" held by ").Append(Chain(device.Holder));
            foreach (var waiter in device.Waiters ?? [])
                text.Append("; wanted by ").Append(Chain(waiter.Frame.Outer)).Append(waiter.MustSucceed ? " (must)" : "");
        }
        return text.ToString();

        static string Chain(TransitionFrame? frame) => frame is null ? "nobody else" : $"{frame.Device} in {Chain(frame.Outer)}";
    }

    protected void Note(string what, string? device = null, string? other = null)
    {
        foreach (var text in (ReadOnlySpan<string?>)[what, device, other])
        {
            foreach (var c in text ?? "")
                _hash = (_hash ^ c) * 1099511628211;
        }
        Require(TaskScheduler.Current == Scheduler.Tasks, $"'{what}' does not run on the seeded scheduler");
        if (_trace is null)
            return;
        foreach (var line in _log.Lines.Skip(_logged))
            _trace.Append("      ").Append(line).Append('\n');
        _logged = _log.Lines.Count;
        _trace.Append(Scheduler.Steps).Append(' ').Append(what).Append(' ').Append(device).Append(' ').Append(other).Append('\n');
    }

    protected string? LastEvent(string devPath) => _lastEvent.GetValueOrDefault(devPath);

    /// <summary>Events have consecutive numbers, and those of a device come in an order that makes sense.</summary>
    protected void CheckEvents()
    {
        foreach (var uevent in Fabric.Uevents.History(_eventsSeen))
        {
            Require(uevent.Seqnum == _eventsSeen + 1, $"event {uevent} follows {_eventsSeen}");
            _eventsSeen = uevent.Seqnum;
            if (uevent.Subsystem is "bus" or "drivers")
                continue;
            var last = LastEvent(uevent.DevPath);
            var allowed = uevent.Action switch
            {
                UeventAction.Add => last is null or "remove",
                UeventAction.Bind => last is "add" or "unbind",
                UeventAction.Unbind => last is "bind",
                UeventAction.Remove => last is "add" or "unbind",
                _ => last is not (null or "remove"),
            };
            Require(allowed, $"event {uevent} follows {last ?? "nothing"}");
            if (uevent.Action is not UeventAction.Change)
                _lastEvent[uevent.DevPath] = uevent.ActionName;
        }
    }
}
