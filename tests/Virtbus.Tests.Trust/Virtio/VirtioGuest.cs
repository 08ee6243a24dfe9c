using System.Diagnostics;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Trust;

/// <summary>A guest with a network device and a disk, and its work with both: frames from and to a machine outside, and requests of all kinds.</summary>
internal sealed class VirtioGuest : IDisposable
{
    private const int MemorySize = 1 << 20;
    private const int DiskAt = (VirtioNetUser.MemoryNeeded + 0xFFF) & ~0xFFF;
    private const int NetVectors = 4;
    public const int DiskVectors = 2;

    private readonly Random _random;
    private readonly VirtioFlow _outward;
    private readonly VirtioFlow _inward;
    private Attachment[] _prepared = [];
    private GuestMemory _outsideMemory;
    private Attachment _outsideFunction;
    private VirtioNetUser _outside;

    public VirtioGuest(VirtioMachine machine, Random random, bool byMessage)
    {
        Debug.Assert(DiskAt + VirtioDiskUser.MemoryNeeded <= MemorySize, "the memory holds both");
        _random = random;
        var functions = Attach(machine, Memory, byMessage);
        Net = new VirtioNetUser(functions[0], Memory, 0);
        Disk = new VirtioDiskUser(functions[1], Memory, DiskAt, random);
        OpenOutside(machine);
        _outward = new VirtioFlow(0, Net, _outside);
        _inward = new VirtioFlow(1, _outside, Net);
    }

    public GuestMemory Memory { get; } = NewMemory();

    public VirtioNetUser Net { get; }

    public VirtioDiskUser Disk { get; }

    /// <summary>The functions, as the guest has them now.</summary>
    public Attachment[] Functions => [Net.Function, Disk.Function];

    public static GuestMemory NewMemory() => new(MemorySize);

    /// <summary>Pages of the memory, one bit each.</summary>
    public static ulong[] NewPages() => new ulong[MemorySize / GuestMemory.PageSize / 64];

    /// <summary>Opens the functions of a machine for a guest's memory.</summary>
    public static Attachment[] Attach(VirtioMachine machine, GuestMemory memory, bool byMessage)
    {
        var net = new Attachment(machine.SocketOf(VirtioMachine.Net), memory, byMessage, NetVectors);
        try
        {
            return [net, new Attachment(machine.SocketOf(VirtioMachine.Disk), memory, byMessage, DiskVectors)];
        }
        catch
        {
            net.Dispose();
            throw;
        }
    }

    /// <summary>Opens the functions of another machine for the guest, which comes to them later. They stay the guest's.</summary>
    public Attachment[] Prepare(VirtioMachine machine, GuestMemory memory, bool byMessage) => _prepared = Attach(machine, memory, byMessage);

    /// <summary>Works until so many frames more have come each way, and so many requests more are done.</summary>
    public void Run(uint count)
    {
        var (outward, inward, done) = (_outward.Received + count, _inward.Received + count, Disk.Done + count);
        Until(() => _outward.Received >= outward && _inward.Received >= inward && Disk.Done >= done, Turn);
    }

    /// <summary>One turn: something is sent and asked for, and what has come is looked at.</summary>
    public void Turn()
    {
        _outward.Publish(_random.Next(5));
        _inward.Publish(_random.Next(5));
        Disk.Publish(_random.Next(5));
        // Sometimes what was published waits for a later ring.
        foreach (var user in (VirtioUser[])[Net, _outside, Disk])
        {
            if (_random.Next(4) != 0)
                user.Ring();
        }

        Listen();
    }

    /// <summary>The machine outside sends no more, and what it sent has come.</summary>
    public void PauseOutside()
    {
        _inward.IsPaused = true;
        Until(
            () => _inward.Received == _inward.Sent,
            () =>
            {
                _outside.Ring();
                Listen();
            });
    }

    /// <summary>The machine outside sends again.</summary>
    public void ResumeOutside() => _inward.IsPaused = false;

    /// <summary>All that the function has sent is with the machine outside, and comes to it in no other way.</summary>
    public void SeeSentArrive() => Until(
        () => _outward.Received == Net.Sent,
        () =>
        {
            Net.Listen();
            Take(_outside);
        });

    /// <summary>The functions stand still: nothing more is taken, however they are told.</summary>
    public void PostInVain()
    {
        Listen();
        Post();
        // What was sent before may have to come first, as no more are under way than there are buffers for.
        Until(
            () => Net.Sending > 0 && Disk.InFlight > 0,
            () =>
            {
                Take(_outside);
                Post();
            });

        void Post()
        {
            _outward.Publish(5);
            Disk.Publish(20);
            Net.Ring();
            Disk.Ring();
        }
    }

    /// <summary>What was given to functions that stood still is as it was.</summary>
    public void SeeNothingDone()
    {
        var (net, disk) = (Net.Sending, Disk.InFlight);
        Net.Listen();
        Disk.Listen();
        if ((Net.Sending, Disk.InFlight) != (net, disk))
            throw new DeviceFailure("a function that stands still handed a buffer back");
    }

    /// <summary>The guest, and the machine outside, go on with the functions and the memory of another machine.</summary>
    public void MoveTo(VirtioMachine machine, Attachment[] functions, GuestMemory memory)
    {
        Memory.MoveTo(memory);
        Net.MoveTo(functions[0]);
        Disk.MoveTo(functions[1]);
        CloseOutside();
        OpenOutside(machine);
        (_outward.To, _inward.From) = (_outside, _outside);
        ResumeOutside();
    }

    /// <summary>Nothing is under way, each frame has come, and each byte of the disk is what it is to be.</summary>
    public void SeeAllDone()
    {
        Until(
            () => _outward.Received == _outward.Sent && _inward.Received == _inward.Sent && Disk.InFlight == 0,
            () =>
            {
                foreach (var user in (VirtioUser[])[Net, _outside, Disk])
                    user.Ring();
                Listen();
            });
        Disk.ReadAll();
    }

    public void Dispose()
    {
        CloseOutside();
        foreach (var function in Functions.Concat(_prepared))
            function.Dispose();
        Memory.Dispose();
    }

    public override string ToString() => $"{_outward.Received} of {_outward.Sent} frames out, {_inward.Received} of {_inward.Sent} in, {Disk.Done} requests, {Disk.InFlight} in flight";

    private void Listen()
    {
        Disk.Listen();
        Take(Net);
        Take(_outside);
    }

    private void Take(VirtioNetUser user)
    {
        user.Listen();
        foreach (var frame in user.Take())
        {
            if (NicFrame.IsFor(frame, user.Address))
                (NicFrame.FlowOf(frame) == 0 ? _outward : _inward).Receive(frame);
        }
    }

    private void Until(Func<bool> done, Action turn)
    {
        var begin = Stopwatch.GetTimestamp();
        while (!done())
        {
            if (Stopwatch.GetElapsedTime(begin) > TestFabric.Deadline)
                throw new DeviceFailure($"it does not go on: {this}");
            turn();
        }
    }

    [System.Diagnostics.CodeAnalysis.MemberNotNull(nameof(_outside), nameof(_outsideFunction), nameof(_outsideMemory))]
    private void OpenOutside(VirtioMachine machine)
    {
        _outsideMemory = NewMemory();
        _outsideFunction = new Attachment(machine.SocketOf(VirtioMachine.Outside), _outsideMemory, byMessage: false, NetVectors);
        _outside = new VirtioNetUser(_outsideFunction, _outsideMemory, 0);
    }

    private void CloseOutside()
    {
        _outsideFunction.Dispose();
        _outsideMemory.Dispose();
    }
}
