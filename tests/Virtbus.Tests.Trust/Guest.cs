using Virtbus.Platform;

namespace Virtbus.Tests.Trust;

/// <summary>
/// A guest with two functions of two queue sets each, and its traffic: within a function, from one function to the other, and with a machine
/// outside. It begins on machine 0.
/// </summary>
internal sealed class Guest : IDisposable
{
    private const int MemorySize = 1 << 20;
    private const int PartSize = 0x60000;
    private const int ScratchAt = (NicDriver.MemoryNeeded + 0xFFF) & ~0xFFF;
    private const int CopySize = 0x4000;
    private const int Copies = 3;
    private const int LostBeforeAll = 5;

    private readonly TwoMachines _machines;
    private readonly Random _random;
    private readonly NicDriver[] _drivers = new NicDriver[TwoMachines.GuestFunctions];
    private readonly Station[][] _stations = new Station[TwoMachines.GuestFunctions][];
    private readonly Flow _outward;
    private readonly Flow _inward;
    private Attachment[] _prepared = [];
    private uint[] _dropped = [];
    private GuestMemory? _outsideMemory;
    private Attachment? _outsideFunction;

    public Guest(TwoMachines machines, Random random, bool byMessage)
    {
        _machines = machines;
        _random = random;
        Traffic = new Traffic(random);
        Functions = Attach(0, Memory, byMessage);
        for (var i = 0; i < Functions.Length; i++)
        {
            _drivers[i] = Start(Functions[i], Memory, i * PartSize, NicDriver.Sets);
            _stations[i] = [new Station(_drivers[i], (uint)i, 0), new Station(_drivers[i], (uint)i, 1)];
        }
        // Some frames find no buffer, so that there is a count of those.
        for (var i = 0; i < LostBeforeAll; i++)
            Traffic.Announce(_stations[0][0]);
        Demand(SpinWait.SpinUntil(() => _stations[0][1].Queue.Dropped == LostBeforeAll, UserDevice.Patience), "frames without a buffer are not counted");
        foreach (var station in _stations.SelectMany(s => s))
            Traffic.Join(station);
        var outside = OpenOutside(0);
        Traffic.Add(_stations[0][0], _stations[0][1]);
        Traffic.Add(_stations[0][1], _stations[1][0]);
        Traffic.Add(_stations[1][0], _stations[0][0]);
        _outward = Traffic.Add(_stations[1][1], outside);
        _inward = Traffic.Add(outside, _stations[1][1]);
    }

    /// <summary>The functions, as the guest has them now.</summary>
    public Attachment[] Functions { get; private set; }

    public NicDriver[] Drivers => _drivers;

    public GuestMemory Memory { get; } = new(MemorySize);

    public Traffic Traffic { get; }

    /// <summary>Pages of the memory, one bit each.</summary>
    public static ulong[] NewPages() => new ulong[MemorySize / GuestMemory.PageSize / 64];

    /// <summary>A memory of the guest's size, for another machine.</summary>
    public static GuestMemory NewMemory() => new(MemorySize);

    /// <summary>Opens the functions of machine 1 for the guest, which comes to them later. They stay the guest's.</summary>
    public Attachment[] Prepare(GuestMemory memory, bool byMessage) => _prepared = Attach(1, memory, byMessage);

    private Attachment[] Attach(int machine, GuestMemory memory, bool byMessage) =>
        [.. Enumerable.Range(0, TwoMachines.GuestFunctions).Select(i => new Attachment(_machines.SocketOf(machine, i), memory, byMessage))];

    /// <summary>Descriptors that the guest published and no adapter has taken.</summary>
    public int InFlight => _stations.SelectMany(s => s).Sum(s => s.Queue.Sending);

    /// <summary>
    /// Nothing that the guest sends goes out: checked behind a command, which the adapter does after what it was rung for before.
    /// </summary>
    public void SeeNothingSent()
    {
        var before = InFlight;
        foreach (var station in _stations.SelectMany(s => s))
            station.Queue.Ring();
        foreach (var driver in _drivers)
            Demand(driver.Copy(ScratchAt, ScratchAt + CopySize, CopySize, UserDevice.Patience));
        Demand(InFlight == before, "a function sent a frame when it was not to reach others");
    }

    /// <summary>The machine outside stops sending, and what it sent has arrived.</summary>
    public void PauseOutside()
    {
        _inward.IsPaused = true;
        Traffic.Drain(_inward);
    }

    /// <summary>The machine outside sends again.</summary>
    public void ResumeOutside() => _inward.IsPaused = false;

    /// <summary>Gives each function commands and does not wait for their answers.</summary>
    public void PostCopies()
    {
        var bytes = new byte[CopySize];
        foreach (var driver in _drivers)
        {
            _random.NextBytes(bytes);
            driver.Write(ScratchAt, bytes);
            for (var i = 1; i <= Copies; i++)
                driver.PostCopy(ScratchAt, ScratchAt + (i * CopySize), CopySize);
        }
    }

    /// <summary>Every command was answered once, and did what it was to.</summary>
    public void SeeCopies()
    {
        foreach (var driver in _drivers)
        {
            Demand(
                SpinWait.SpinUntil(
                    () =>
                    {
                        driver.TakeEvents();
                        return !driver.IsBusy;
                    },
                    UserDevice.Patience),
                "commands were not answered");
            var (from, to) = (new byte[CopySize], new byte[CopySize]);
            driver.Read(ScratchAt, from);
            for (var i = 1; i <= Copies; i++)
            {
                driver.Read(ScratchAt + (i * CopySize), to);
                Demand(to.AsSpan().SequenceEqual(from), "a copy has other bytes");
            }
        }
    }

    /// <summary>The machine outside sends frames to functions that stand still: nobody gets them. What it got before, it has.</summary>
    public void SendInVain()
    {
        var outside = _inward.From;
        Traffic.Listen(outside);
        for (var i = 0u; i < 10; i++)
        {
            Demand(outside.Queue.TryPublish(NicFrame.Make(_stations[0][0].Address, outside.Address, NicFrame.Announcement, i), NicFrame.AddressSize), "there is no room to send");
            outside.Queue.Ring();
        }
        Demand(SpinWait.SpinUntil(() => outside.Queue.Sending == 0, UserDevice.Patience), "frames for a function that stands still are not sent");
    }

    /// <summary>The machine outside is reached by way of machine 1 from now on.</summary>
    public void MoveOutside()
    {
        var outside = OpenOutside(1);
        _outward.To = outside;
        _inward.From = outside;
        ResumeOutside();
    }

    /// <summary>The guest goes on with the functions and the memory of machine 1.</summary>
    public void MoveTo(Attachment[] functions, GuestMemory memory)
    {
        Memory.MoveTo(memory);
        for (var i = 0; i < functions.Length; i++)
            _drivers[i].Client = functions[i].Client;
        foreach (var function in Functions)
            function.Dispose();
        Functions = functions;
        foreach (var station in _stations.SelectMany(s => s))
            Traffic.Announce(station);
    }

    /// <summary>Each vector was signalled: what happened meanwhile may have been told to nobody.</summary>
    public void SeeReminders()
    {
        foreach (var function in Functions)
        {
            for (var vector = 0; vector < Attachment.Vectors; vector++)
                Demand(function.WaitForSignal(vector), $"interrupt {vector} did not come");
        }
    }

    /// <summary>Nothing is under way, and the counters say what happened.</summary>
    public void SeeAllDone()
    {
        Traffic.Drain();
        Demand(SpinWait.SpinUntil(() => InFlight == 0, UserDevice.Patience), "frames were not sent");
        Demand(Dropped.SequenceEqual(_dropped), "the counts of dropped frames are not what they were");
    }

    /// <summary>From here on every frame finds a buffer: the counts of those that did not are to stay.</summary>
    public void NoteDropped() => _dropped = Dropped;

    private uint[] Dropped => [.. _stations.SelectMany(s => s).Select(s => s.Queue.Dropped)];

    public void Dispose()
    {
        CloseOutside();
        foreach (var function in Functions.Concat(_prepared))
            function.Dispose();
        Memory.Dispose();
    }

    private static NicDriver Start(Attachment function, GuestMemory memory, int at, int sets)
    {
        var driver = new NicDriver(function.Client, memory, UserDevice.MemoryBase, at);
        Demand(driver.Start(UserDevice.Patience));
        for (var set = 0; set < sets; set++)
            Demand(driver.CreateSet(set, 1 + set, UserDevice.Patience));
        return driver;
    }

    private static void Demand(Fault fault) => Demand(fault == Fault.None, $"{fault.Errno}: {fault.Message}");

    private static void Demand(bool holds, string what)
    {
        if (!holds)
            throw new DeviceFailure(what);
    }

    private Station OpenOutside(int machine)
    {
        CloseOutside();
        _outsideMemory = new GuestMemory(MemorySize);
        _outsideFunction = new Attachment(_machines.SocketOf(machine, TwoMachines.Outside), _outsideMemory, byMessage: false);
        // The same address on both machines, as if one wire led to both.
        var station = new Station(Start(_outsideFunction, _outsideMemory, 0, 1), TwoMachines.Outside, 0);
        Traffic.Join(station);
        return station;
    }

    private void CloseOutside()
    {
        if (_inward is not null)
            Traffic.Leave(_inward.From);
        _outsideFunction?.Dispose();
        _outsideMemory?.Dispose();
    }
}
