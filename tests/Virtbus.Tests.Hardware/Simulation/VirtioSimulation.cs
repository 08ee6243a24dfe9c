using System.Globalization;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>
/// Virtio functions and their guests on one thread under a seed: disks, a switch with network devices, a console, an entropy source, physical functions with
/// virtual ones. Queues have a turn when the seed says so; between two turns guests put in requests and take used buffers, reset their device, its function or
/// a queue, stop it, take its memory or its bus mastering away, move its state to another function, pull it, and let virtual functions come and go. What
/// comes back, what is written and what calls is compared with what each guest knows; in the end nothing is left.
/// </summary>
internal sealed class VirtioSimulation : SeededProgram
{
    private const int Steps = 220;
    private const int Places = 10;
    private const ushort Vlan = 1;
    private const ushort OtherVlan = 5;
    private const int RestlessTurns = 20_000;

    private static readonly string[] Numbers = [.. Enumerable.Range(0, 256).Select(static n => n.ToString(CultureInfo.InvariantCulture))];

    private readonly Action<VirtioSimulation>? _sabotage;
    private readonly PollThreads _pool = PollThreads.MakeStepped("simulation");
    private readonly List<SimGuest> _guests = [];
    private readonly List<SimCard> _cards = [];
    private ulong _number;

    public VirtioSimulation(ulong seed, Action<VirtioSimulation>? sabotage = null, bool trace = false)
        : this(seed, sabotage, trace, new ManualTime())
    {
    }

    private VirtioSimulation(ulong seed, Action<VirtioSimulation>? sabotage, bool trace, ManualTime time)
        : base(seed, trace, time)
    {
        _sabotage = sabotage;
        Network = new EthernetSwitch(time);
        Sink = new FaultSink((source, work, exception, _) => Require(false, $"{source}, {work}: {exception}"), time);
        Memory = HostMemory.Allocate("virtbus-sim", Places * SimGuest.SliceSize, out var file);
        file.Dispose();
    }

    public EthernetSwitch Network { get; }

    public FaultSink Sink { get; }

    /// <summary>That of all guests, each in a part of its own.</summary>
    public HostMemory Memory { get; }

    /// <summary>Room for one guest's memory.</summary>
    public byte[] Scratch { get; } = new byte[SimGuest.SliceSize];

    /// <summary>All that were ever sent, by number.</summary>
    public Dictionary<ulong, SimFrame> Frames { get; } = [];

    /// <summary>Counts what happened.</summary>
    public long Now { get; private set; }

    public bool IsOver => HasFailed;

    public IReadOnlyList<SimGuest> Guests => _guests;

    public List<NetGuest> NetGuests { get; } = [];

    public ulong TakeNumber() => ++_number;

    public void Tell(string what, string guest, int number = -1)
    {
        Now++;
        Note(what, guest, number < 0 ? null : Numbers[number]);
    }

    /// <summary>Makes the devices of a guest's virtual functions.</summary>
    public Func<int, VirtioDevice> MakeVirtual(SimGuest guest) => index => _cards.First(c => c.Physical == guest).MakeVirtual(index);

    /// <summary>Gives queues a few turns.</summary>
    public void Turns(int count)
    {
        while (count-- > 0 && _pool[0].Step(Next))
        {
        }
    }

    /// <summary>Gives queues turns and ends what disks have in flight until nothing is left to do.</summary>
    public void RunToEnd()
    {
        for (var n = 0; n < RestlessTurns; n++)
        {
            if (!_pool[0].Step(Next) & !EndOne())
                return;
        }

        Require(false, "queues do not come to rest");
    }

    protected override Task ProgramAsync()
    {
        PollThreads.Here = _pool;
        try
        {
            Build();
            for (var step = 0; step < Steps && !HasFailed; step++)
            {
                Act();
                _sabotage?.Invoke(this);
            }

            if (!HasFailed)
                ComeToRest();
            TakeDown();
        }
        finally
        {
            PollThreads.Here = null;
            _pool.Dispose();
            Memory.Dispose();
        }

        return Task.CompletedTask;
    }

    private void Build()
    {
        if (Next(4) > 0)
        {
            AddCard(Add(new NetGuest(this, 0, "net0", 3, Vlan)), new NetGuest(this, 1, "net0v0", 0, Vlan) { IsVirtual = true },
                new NetGuest(this, 2, "net0v1", 0, Vlan) { IsVirtual = true }, new NetGuest(this, 3, "net0v2", 0, OtherVlan) { IsVirtual = true });
            AddCard(Add(new NetGuest(this, 4, "net1", 0, Vlan)));
        }

        if (Next(4) > 0)
        {
            AddCard(Add(new DiskGuest(this, 5, "disk0", 2)), new DiskGuest(this, 6, "disk0v0", 0) { IsVirtual = true },
                new DiskGuest(this, 7, "disk0v1", 0) { IsVirtual = true });
        }

        if (Next(2) == 0)
            AddCard(Add(new RngGuest(this, 8, "rng0")));
        if (Next(2) == 0 || _cards.Count == 0)
            AddCard(Add(new ConsoleGuest(this, 9, "console0")));
        foreach (var card in _cards)
            card.Physical.Insert();
    }

    private SimGuest Add(SimGuest guest)
    {
        _guests.Add(guest);
        if (guest is NetGuest net)
            NetGuests.Add(net);
        return guest;
    }

    private void AddCard(SimGuest physical, params SimGuest[] virtuals)
    {
        foreach (var guest in virtuals)
            Add(guest);
        _cards.Add(new SimCard(physical, virtuals));
    }

    private void Act()
    {
        var there = _guests.FindAll(static g => g.IsThere);
        var guest = there[Next(there.Count)];
        CheckHealth(guest);
        if (!guest.IsUp && guest.HasData && Next(2) == 0)
            guest.BringUp();
        switch (Next(64))
        {
            case < 22:
                if (guest.CanSubmit)
                    guest.Submit();
                break;
            case < 27:
                guest.Publish(guest.Queues[Next(guest.Queues.Length)]);
                break;
            case < 34:
                guest.Reap();
                guest.Arm(guest.Queues[Next(guest.Queues.Length)]);
                break;
            case < 46:
                Turns(1 + Next(4));
                break;
            case < 51:
                EndOne();
                break;
            case 51:
                guest.ResetStatus();
                break;
            case 52:
                Card(guest)?.Reset();
                if (Card(guest) is null)
                    guest.ResetFunction();
                break;
            case 53:
                guest.ResetQueue(guest.Queues[Next(guest.Queues.Length)]);
                break;
            case 54:
                guest.SetMaster(!guest.IsMaster);
                break;
            case 55:
                guest.SwitchMemory();
                break;
            case 56:
                if (!guest.IsPaused)
                    guest.Pause();
                else
                    guest.Resume();
                break;
            case 57:
                if (Card(guest) is not { HasVirtuals: true })
                    guest.Move();
                break;
            case 58 or 59:
                _cards[Next(_cards.Count)].SwitchVirtuals(this);
                break;
            case 60:
                if (guest.IsPlugged)
                    guest.Unplug();
                else
                    guest.Plug();
                break;
            default:
                guest.Meddle();
                break;
        }

        // What stands in the way of all else does not stay for long.
        if (Next(4) == 0)
            Repair(there[Next(there.Count)]);
        if (Now % 8 == 0)
        {
            foreach (var other in _guests)
                other.Verify();
        }
    }

    private void CheckHealth(SimGuest guest)
    {
        if (!guest.NeedsReset)
            return;
        Require(guest.MayBreak, $"{guest} needs a reset, and its driver did nothing wrong");
        if (Next(3) == 0)
            guest.ResetStatus();
    }

    private SimCard? Card(SimGuest guest) => _cards.Find(c => c.Physical == guest);

    private static void Repair(SimGuest guest)
    {
        if (!guest.IsThere)
            return;
        if (guest.IsPaused)
            guest.Resume();
        else if (!guest.IsPlugged)
            guest.Plug();
        else if (!guest.HasData)
            guest.SwitchMemory();
        else if (!guest.IsMaster && guest.IsUp)
            guest.SetMaster(true);
    }

    private bool EndOne()
    {
        var disks = _guests.FindAll(static g => g is DiskGuest { IsThere: true, Disk.InFlight: > 0 });
        if (disks.Count == 0)
            return false;
        var guest = (DiskGuest)disks[Next(disks.Count)];
        if (!guest.Disk.EndOne())
            return false;
        for (var queue = 0; queue < guest.Queues.Length; queue++)
            guest.Device!.KickQueue(queue);
        return true;
    }

    // All that was asked is answered; then each does something once more, and that is answered too.
    private void ComeToRest()
    {
        foreach (var guest in _guests.Where(static g => g.IsThere))
        {
            for (var n = 0; n < 4; n++)
                Repair(guest);
            CheckHealth(guest);
            if (guest.NeedsReset)
                guest.ResetStatus();
            if (!guest.IsUp)
                guest.BringUp();
        }

        IsEnding = true;
        for (var round = 0; round < 2; round++)
        {
            foreach (var guest in _guests.Where(static g => g.IsUp))
            {
                foreach (var queue in guest.Queues)
                    guest.Publish(queue);
            }

            RunToEnd();
            foreach (var guest in _guests.Where(static g => g.IsUp))
            {
                guest.Reap();
                CheckHealth(guest);
                guest.CheckAnswered();
                if (guest.CanSubmit)
                    guest.SubmitLast();
            }
        }

        Exchange();
        foreach (var disk in _guests.OfType<DiskGuest>())
            disk.CheckContent();
    }

    // Each network guest reaches each other one of its network.
    private void Exchange()
    {
        var guests = NetGuests.FindAll(static g => g.IsUp);
        // Frames that wait for more buffers than their guest offers wait for ever.
        foreach (var guest in guests)
        {
            guest.ResetStatus();
            guest.BringUp();
        }

        RunToEnd();
        foreach (var guest in guests)
            ((Models.VirtioNet.VirtioNetDevice)guest.Device!).SetLink(true);
        foreach (var from in guests)
        {
            foreach (var to in guests.Where(g => g != from && !HasFailed))
            {
                to.OfferAll();
                to.Publish(to.Receiver);
                var number = from.Send(to.Mac, 100);
                from.Publish(from.Queues[1]);
                RunToEnd();
                from.Reap();
                to.Reap();
                Require(number != 0, $"{from} has no room to send");
                Require(to.LastNumber == number || from.Vlan != to.Vlan, $"frame {number} of {from} does not come to {to}");
                Require(to.LastNumber != number || from.Vlan == to.Vlan, $"frame {number} of {from} comes to {to}");
            }
        }
    }

    private void TakeDown()
    {
        foreach (var card in _cards)
            card.DropVirtuals();
        foreach (var guest in _guests)
            guest.Close();
        Require(HasFailed || _pool[0].Clients == 0, $"{_pool[0].Clients} queues are served, and all functions are gone");
        Require(HasFailed || Network.Ports.Count == 0, $"{Network.Ports.Count} ports are on the switch, and all functions are gone");
    }
}
