using System.Diagnostics;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Trust;

/// <summary>Flows between stations, which one thread keeps going: the guest's processor and those of the machines outside.</summary>
internal sealed class Traffic(Random random)
{
    private const int Burst = 5;
    private readonly List<Flow> _flows = [];
    private readonly List<Station> _stations = [];

    public Flow Add(Station from, Station to)
    {
        var flow = new Flow((ushort)_flows.Count, from, to);
        _flows.Add(flow);
        return flow;
    }

    /// <summary>A station begins to listen, and tells the switch where it is.</summary>
    public void Join(Station station)
    {
        station.Queue.Offer();
        Announce(station);
        _stations.Add(station);
    }

    public void Leave(Station station) => _stations.Remove(station);

    /// <summary>Tells the switch where a station is.</summary>
    public static void Announce(Station station)
    {
        if (!station.Queue.TryPublish(NicFrame.Make(NicFrame.Broadcast, station.Address, NicFrame.Announcement, 0), NicFrame.AddressSize))
            throw new DeviceFailure("there is no room for an announcement");
        station.Queue.Ring();
    }

    /// <summary>One turn: something is sent on some flows, and what has arrived is looked at.</summary>
    public void Turn()
    {
        foreach (var flow in _flows)
        {
            flow.Publish(random.Next(Burst), random);
            // Sometimes what was published waits for a later ring.
            if (random.Next(4) != 0)
                flow.From.Queue.Ring();
        }
        Listen();
    }

    /// <summary>Looks at what has arrived everywhere.</summary>
    public void Listen() => _stations.ForEach(Listen);

    /// <summary>Looks at what has arrived at one station.</summary>
    public void Listen(Station station)
    {
        while (station.Queue.TryTake(out var frame))
        {
            // A frame for a station that the switch does not know yet goes to all.
            if (NicFrame.IsFor(frame, station.Address) && NicFrame.FlowOf(frame) < _flows.Count)
                _flows[NicFrame.FlowOf(frame)].Receive(frame);
        }
        station.Queue.Offer();
        station.Driver.TakeEvents();
        if (station.Queue.Error != 0)
            throw new DeviceFailure($"a queue set stopped with error {station.Queue.Error}");
    }

    /// <summary>Goes on until as many more frames arrived on each flow.</summary>
    public void Run(uint frames)
    {
        var goals = _flows.ConvertAll(f => f.Received + frames);
        Until(() => _flows.Select((f, i) => f.Received >= goals[i]).All(done => done), Turn);
    }

    /// <summary>Sends nothing more, and waits until all of some flows has arrived.</summary>
    public void Drain(params Flow[] flows) => Until(
        () => flows.All(f => f.Received == f.Sent),
        () =>
        {
            foreach (var flow in flows)
                flow.From.Queue.Ring();
            Listen();
        });

    /// <summary>As <see cref="Drain(Flow[])"/>, all flows.</summary>
    public void Drain() => Drain([.. _flows]);

    public override string ToString() => string.Join(", ", _flows.Select(f => $"{f.Received} of {f.Sent}"));

    private void Until(Func<bool> done, Action turn)
    {
        var begin = Stopwatch.GetTimestamp();
        while (!done())
        {
            if (Stopwatch.GetElapsedTime(begin) > TestFabric.Deadline)
                throw new DeviceFailure($"frames do not arrive: {this}");
            turn();
        }
    }
}
