using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using Virtbus.Platform;

namespace Virtbus.Tests.Trust;

/// <summary>
/// A daemon whose sockets are used, misused and attacked from all sides at once, while drivers are bound and unbound and functions come and go.
/// It has to go on serving, and what it takes of its host has to stay where it is.
/// </summary>
internal sealed class Churn : IAsyncDisposable
{
    // Each with one function that users have: frames of one user do not reach another's.
    private static readonly string[] Adapters = ["adapter0", "adapter1"];
    private const string Manifest = """
        adapters:
          - { name: adapter0, model: merlin }
          - { name: adapter1, model: merlin }
        disks:
          - { name: disk0, adapter: adapter0, memory: 1MiB }
          - { name: disk1, adapter: adapter0, memory: 1MiB }
        serials:
          - { name: serial0 }
          - { name: serial1 }
        devices:
          - { module: trust, name: slot, count: 3 }
        modules: MODULES
        """;

    private const int MostActs = 200;
    private static readonly TimeSpan TurnTimeout = TimeSpan.FromSeconds(5);

    private readonly DaemonProcess _daemon = new(Manifest.Replace("MODULES", Path.Combine(AppContext.BaseDirectory, "trust-modules"), StringComparison.Ordinal));
    private readonly ConcurrentDictionary<string, int> _counts = new();
    private readonly ConcurrentQueue<string> _failures = new();
    private readonly List<ChurnFigures> _figures = [];
    private readonly List<Place> _places = [];
    private readonly TimeSpan _length;
    private readonly int _seed;
    private readonly Action<string> _tell;
    private long _start;
    private HostileServer? _server;

    /// <param name="length">How long it goes on.</param>
    /// <param name="seed">What the peers do follows from it; when each gets its turn does not.</param>
    /// <param name="tell">Where lines for a person go.</param>
    public Churn(TimeSpan length, int seed, Action<string> tell)
    {
        _length = length;
        _seed = seed;
        _tell = tell;
    }

    /// <summary>A device that is offered on a socket.</summary>
    /// <param name="Kind">Its kind.</param>
    /// <param name="Address">Its address.</param>
    private sealed record Place(DeviceKind Kind, string Address)
    {
        /// <summary>Goes up when the operator takes the device from its users, and again when it is theirs again: odd in between.</summary>
        public int Taken;
    }

    private bool IsOver => Stopwatch.GetElapsedTime(_start) >= _length;

    /// <summary>Runs it.</summary>
    /// <returns>What was not as it has to be; empty when all was.</returns>
    public async Task<IReadOnlyList<string>> RunAsync()
    {
        await _daemon.UpAsync();
        for (var i = 0; i < 2; i++)
            _places.Add(new Place(DeviceKind.Serial, await _daemon.AddressOfAsync($"serial{i}")));
        foreach (var adapter in Adapters)
            await EnableFunctionAsync(adapter);
        for (var i = 0; i < 3; i++)
            _places.Add(new Place(DeviceKind.Scratch, await _daemon.GetAsync($"/bus/auxiliary/devices/trust.slot.{i}/address")));
        _server = new HostileServer(Path.Combine(_daemon.Runtime, "hostile"), new Random(_seed));
        // Nobody but a good user comes to the last one: it never notices what goes on beside it.
        var quiet = _places[^1];
        _places.RemoveAt(_places.Count - 1);
        foreach (var place in _places.Append(quiet))
            UserDevice.Check(place.Kind, _daemon.SocketOf(place.Address), byMessage: false, twinSocket: true);

        var before = _daemon.Holds;
        _start = Stopwatch.GetTimestamp();
        Sample();
        _tell(ChurnFigures.Head);
        _tell(_figures[0].ToString());
        Action<Random>[] parts =
        [
            random => Guard("vfio-user attack", () => AttackVfio(random)),
            random => Guard("vfio-user attack", () => AttackVfio(random)),
            random => Guard("vhost-user attack", () => AttackVhost(random)),
            random => Guard("control attack", () => Attack("control.sock", random, static p => p.AttackControl())),
            random => UseFunction(random),
            random => Misuse(random),
            random => UseDisk(random),
            random => UseQuiet(quiet, random),
        ];
        var threads = parts.Select((part, i) => new Thread(() => Repeat(part, new Random(unchecked((_seed * 31) + i)))) { IsBackground = true, Name = "churn" }).ToList();
        foreach (var thread in threads)
            thread.Start();
        await Task.WhenAll(OperateAsync(new Random(~_seed)), SampleAsync());
        foreach (var thread in threads)
            Assert.True(thread.Join(TimeSpan.FromMinutes(5)), "a part of the churn does not end");
        HostilePeer.LetGo();
        await SettleAsync(before);
        Judge(quiet);
        _tell(string.Join(", ", _counts.OrderBy(static c => c.Key, StringComparer.Ordinal).Select(static c => string.Create(CultureInfo.InvariantCulture, $"{c.Value} {c.Key}"))));
        _server.Dispose();
        _server = null;
        if (_failures.IsEmpty)
            await _daemon.DownAsync();
        return [.. _failures];
    }

    public async ValueTask DisposeAsync()
    {
        _server?.Dispose();
        await _daemon.DisposeAsync();
    }

    private void Repeat(Action<Random> part, Random random)
    {
        while (!IsOver && _failures.IsEmpty)
            part(random);
    }

    private void Count(string what) => _counts.AddOrUpdate(what, 1, static (_, count) => count + 1);

    // A part that fails by itself is a fault of the test, and is told.
    private void Guard(string what, Action act)
    {
        try
        {
            act();
            Count(what);
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            _failures.Enqueue($"{what}: {e}");
        }
    }

    private void AttackVfio(Random random) => Attack(_places[random.Next(_places.Count)].Address + ".sock", random, static p => p.AttackVfio());

    private void AttackVhost(Random random) => Attack($"disk{random.Next(2)}.sock", random, static p => p.AttackVhost());

    private void Attack(string socket, Random random, Action<HostilePeer> attack)
    {
        using var peer = HostilePeer.TryConnect(Path.Combine(_daemon.Runtime, socket), random);
        if (peer is null)
            Thread.Yield();
        else if (random.Next(10) > 0)
            attack(peer);
    }

    // A user that means well. It may be turned away and lose the device, but what it has works.
    private void UseFunction(Random random)
    {
        var place = _places[random.Next(_places.Count)];
        var taken = Volatile.Read(ref place.Taken);
        using var device = TryOpen(place, random);
        if (device is null)
            return;
        try
        {
            device.SetUpOrFail();
            device.Check();
            Count($"good {place.Kind}");
        }
        catch (DeviceFailure e)
        {
            if (int.IsEvenInteger(taken) && taken == Volatile.Read(ref place.Taken))
                _failures.Enqueue($"A user of {place.Kind} {place.Address}: {e.Message}");
            else
                Count($"taken {place.Kind}");
        }
    }

    private void UseQuiet(Place place, Random random)
    {
        try
        {
            UserDevice.Check(place.Kind, _daemon.SocketOf(place.Address), byMessage: random.Next(2) == 0, twinSocket: random.Next(2) == 0);
            Count("quiet");
        }
        catch (Exception e) when (e is DeviceFailure or VirtbusException)
        {
            _failures.Enqueue($"The user beside them: {e.Message}");
        }
    }

    private void Misuse(Random random)
    {
        using var device = TryOpen(_places[random.Next(_places.Count)], random);
        if (device is null)
            return;
        foreach (var part in device.SetUp)
            part();
        var monkey = new Monkey(device, random);
        for (var i = random.Next(MostActs); i > 0 && device.Client.IsConnected; i--)
            monkey.Act();
        Count("monkey");
    }

    private UserDevice? TryOpen(Place place, Random random)
    {
        try
        {
            return UserDevice.Open(place.Kind, _daemon.SocketOf(place.Address), byMessage: random.Next(2) == 0, twinSocket: random.Next(2) == 0, TurnTimeout);
        }
        catch (VirtbusException)
        {
            // Not there for now, or others were faster.
            Count("turned away");
            return null;
        }
    }

    // Only disk0: the other one is taken from its users.
    private void UseDisk(Random random)
    {
        try
        {
            using var front = new FrontEnd(Path.Combine(_daemon.Runtime, "disk0.sock"), eventIndex: random.Next(2) == 0);
            front.Connect();
            for (var i = random.Next(20); i >= 0; i--)
                front.ReadSector((ulong)random.Next(2048));
            Count("good disk");
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            _failures.Enqueue($"A front end of disk0: {e.Message}");
        }
    }

    private async Task OperateAsync(Random random)
    {
        for (var step = 0; !IsOver && _failures.IsEmpty; step++)
        {
            var place = _places[random.Next(_places.Count)];
            switch (random.Next(5))
            {
                case 0:
                    await RevokeAsync(place);
                    await DemandAsync("/bus/pci/drivers/vfio-pci/unbind", place.Address);
                    await DemandAsync("/bus/pci/drivers/vfio-pci/bind", place.Address);
                    Interlocked.Increment(ref place.Taken);
                    break;
                case 1:
                    await DemandAsync("/bus/vdpa/drivers/vhost-vdpa/unbind", "disk1");
                    await DemandAsync("/bus/vdpa/drivers/vhost-vdpa/bind", "disk1");
                    break;
                case 2:
                    var label = $"extra{step}";
                    await DemandAsync("/kernel/config/define", $"{label} kind=pci simulated=scratch driver=vfio-pci live=1");
                    var path = (await _daemon.ListAsync("/bus/pci/devices")).Keys.OrderBy(static k => k, StringComparer.Ordinal).Last();
                    await DemandAsync($"/bus/pci/devices/{path}/unplug", random.Next(2) == 0 ? "1" : "surprise");
                    await DemandAsync("/kernel/config/deactivate", label);
                    await DemandAsync("/kernel/config/undefine", label);
                    break;
                case 3:
                    await _daemon.TrySetAsync("/kernel/config/define", $"hostile{step} kind=pci vfio-user={_server!.Path} live=1");
                    break;
                default:
                    var adapter = Adapters[random.Next(Adapters.Length)];
                    var address = await FunctionOfAsync(adapter);
                    var function = _places.Single(p => p.Address == address);
                    await RevokeAsync(function);
                    await DemandAsync((await _daemon.PathOfAsync(adapter)) + "/sriov_numvfs", "0");
                    await EnableFunctionAsync(adapter);
                    Interlocked.Increment(ref function.Taken);
                    break;
            }
            Count("operator");
        }
    }

    private async Task DemandAsync(string path, string value)
    {
        if (await _daemon.TrySetAsync(path, value) is { } refusal)
            _failures.Enqueue($"{path} = {value}: {refusal}");
    }

    // Nobody gets in from now on until a driver is bound anew, which ends what begins here.
    private async Task RevokeAsync(Place place)
    {
        Interlocked.Increment(ref place.Taken);
        if (await _daemon.VfioDeviceOfAsync(place.Address) is { } device)
            await DemandAsync(device + "/revoke", "1");
    }

    private async Task<string> FunctionOfAsync(string adapter) =>
        Path.GetFileName((await _daemon.ListAsync(await _daemon.PathOfAsync(adapter)))["virtfn0"])!;

    private async Task EnableFunctionAsync(string adapter)
    {
        var path = await _daemon.PathOfAsync(adapter);
        await _daemon.SetAsync(path + "/sriov_drivers_autoprobe", "0");
        await _daemon.SetAsync(path + "/sriov_numvfs", "1");
        var address = await FunctionOfAsync(adapter);
        await _daemon.SetAsync($"/bus/pci/devices/{address}/driver_override", "vfio-pci");
        await _daemon.SetAsync("/bus/pci/drivers_probe", address);
        if (!_places.Exists(p => p.Address == address))
            _places.Add(new Place(DeviceKind.Nic, address));
    }

    private async Task SampleAsync()
    {
        const int Samples = 12;
        using var timer = new PeriodicTimer(_length / Samples);
        while (!IsOver && _failures.IsEmpty && await timer.WaitForNextTickAsync())
        {
            Sample();
            _tell(_figures[^1].ToString());
        }
    }

    private void Sample() => _figures.Add(_daemon.Figures(Stopwatch.GetElapsedTime(_start).TotalSeconds));

    // All peers are gone: nothing of them may be left.
    private async Task SettleAsync(string before)
    {
        var holds = "";
        if (!SpinWait.SpinUntil(() => (holds = _daemon.Holds) == before, UserDevice.Patience))
            _failures.Enqueue($"The daemon holds {holds}, and held {before} before.");
        // It answers, too.
        await _daemon.PathOfAsync(Adapters[0]);
        Sample();
        _tell(_figures[^1].ToString());
    }

    private void Judge(Place quiet)
    {
        const int Threads = 16, Mappings = 500, Memory = 64, LinesPerSecond = 60;
        var (first, last) = (_figures[0], _figures[^1]);
        Demand(last.Descriptors <= first.Descriptors + 8, "descriptors", first.Descriptors, last.Descriptors);
        Demand(last.Threads <= first.Threads + Threads, "threads", first.Threads, last.Threads);
        Demand(last.Mappings <= first.Mappings + Mappings, "mappings", first.Mappings, last.Mappings);
        Demand(last.AddressSpaceGiB <= first.AddressSpaceGiB + 16, "GiB of address space", first.AddressSpaceGiB, last.AddressSpaceGiB);
        // By the middle all has been there once; from there on it does not grow.
        var middle = _figures.Count / 2;
        var (early, late) = (_figures.Take(middle).Max(static f => f.MemoryMiB), _figures.Skip(middle).Max(static f => f.MemoryMiB));
        Demand(late <= early + (early / 4) + Memory, "MiB of memory in the second half, and in the first", early, late);
        Demand(last.LogLines <= (int)(last.Seconds * LinesPerSecond), "lines of log", first.LogLines, last.LogLines);
        foreach (var what in (string[])["good Serial", "good Nic", "good Scratch", "good disk", "quiet", "monkey", "operator", "vfio-user attack", "vhost-user attack"])
        {
            if (!_counts.ContainsKey(what))
                _failures.Enqueue($"There was not one '{what}'.");
        }
        try
        {
            _daemon.CheckLog();
            foreach (var place in _places.Append(quiet))
                UserDevice.Check(place.Kind, _daemon.SocketOf(place.Address), byMessage: false, twinSocket: true);
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            _failures.Enqueue($"Afterwards: {e.Message}");
        }
    }

    private void Demand(bool holds, string what, long before, long after)
    {
        if (!holds)
            _failures.Enqueue(string.Create(CultureInfo.InvariantCulture, $"The daemon has {after} {what}; {before} before."));
    }
}
