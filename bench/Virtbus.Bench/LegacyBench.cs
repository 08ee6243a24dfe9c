using System.Diagnostics;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Drivers.VirtioNet;
using Virtbus.Drivers.VirtioPci;
using Virtbus.Drivers.VirtioVfioPci;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Remote.Pci;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Net;
using Virtbus.Subsystems.Vfio;
using Virtbus.Testing;
using Virtbus.Tests.Drivers.Virtio;
using Virtbus.Transports.VfioUser;
using static Virtbus.Bench.Statistics;

namespace Virtbus.Bench;

/// <summary>
/// A virtual function that is modern only, driven by an old driver through virtio-vfio-pci over vfio-user, beside a modern driver on the same function: registers by the
/// administration queue, and 64-byte frames from one such function to another on the same switch. The two take turns, a connection each round.
/// </summary>
internal static class LegacyBench
{
    private const ulong Mac = 0x02_00_00_00_00_10;
    private const int Window = 192;
    private const int Length = 60;
    private const byte StatusAt = 18;

    internal static async Task<int> RunAsync(string[] args)
    {
        var values = new Dictionary<string, string>(StringComparer.Ordinal) { ["--rounds"] = "7", ["--milliseconds"] = "500" };
        if (!NamedValues.TryRead(args, values))
            return 2;
        var (rounds, milliseconds) = (int.Parse(values["--rounds"]), int.Parse(values["--milliseconds"]));
        // One, so that the queues of both lie alike: which of two a queue is on depends on what else is there at the moment, and counts for more than the driver.
        PollThreads.SharedCount = 1;
        await using var host = await StartAsync();
        await host.InitModuleAsync(new VirtioVfioPciModule(), "virtio_vfio_pci");
        var lan = new EthernetSwitch();
        var model = new VirtioNetDevice("nic", lan, new VirtioNetOptions(Mac - 1));
        var physical = await host.PlugAsync(new VirtioFunction(
            model, new VirtioFunctionOptions { VirtualFunctions = 2 }, index => new VirtioNetDevice($"nicv{index}", lan, new VirtioNetOptions(Mac + (ulong)index))));
        await host.Fabric.SettleAsync();
        await host.Fabric.Tree.WriteAsync(physical.DevPath + "/sriov_drivers_autoprobe", "0");
        await host.Fabric.Tree.WriteAsync(physical.DevPath + "/sriov_numvfs", "2");
        await host.Fabric.SettleAsync();
        await using var servers = new Servers();
        foreach (var function in physical.VirtualFunctions)
        {
            await host.BindAsync(function, "virtio-vfio-pci");
            servers.Start(new VfioUserServer(servers.PathOf(function.Name), function.Children.OfType<VfioDevice>().Single(), host.Log));
        }

        List<double> commands = [];
        double[][] reads = [[], []], frames = [[], []];
        var commandsEach = 0.0;
        for (var round = 0; round < rounds; round++)
        {
            commands.Add(Rate(milliseconds, () => VirtioPciAdmin.TryLegacyCommonRead(physical.VirtualFunctions[0], StatusAt, stackalloc byte[1], out _)));
            foreach (var isLegacy in new[] { true, false })
            {
                await using var left = await Guest.ConnectAsync(servers.Paths[0], isLegacy);
                await using var right = await Guest.ConnectAsync(servers.Paths[1], isLegacy);
                var before = model.GetQueueCounters(model.QueueCount).Requests;
                var rate = Rate(milliseconds, () => left.Virtio.Status != byte.MaxValue, out var count);
                if (isLegacy)
                    commandsEach = (double)(model.GetQueueCounters(model.QueueCount).Requests - before) / count;
                reads[isLegacy ? 0 : 1] = [.. reads[isLegacy ? 0 : 1], rate];
                frames[isLegacy ? 0 : 1] = [.. frames[isLegacy ? 0 : 1], Exchange(left.Net, right.Net, milliseconds)];
            }
        }

        Console.WriteLine("| measured | old driver | modern driver | ratio |");
        Console.WriteLine("|---|---|---|---|");
        Console.WriteLine($"| register reads over vfio-user, thousand a second | {Median(reads[0]) / 1e3:F1} | {Median(reads[1]) / 1e3:F1} | {Ratio(reads):F2} |");
        Console.WriteLine($"| 64-byte frames, million a second | {Median(frames[0]) / 1e6:F2} | {Median(frames[1]) / 1e6:F2} | {Ratio(frames):F2} |");
        Console.WriteLine();
        Console.WriteLine($"{commandsEach:F2} administration commands a register access; {Median(commands) / 1e3:F1} thousand a second without vfio-user.");
        return 0;
    }

    private static double Ratio(double[][] values) => Median(values[0].Zip(values[1], static (a, b) => a / b));

    private static async Task<FabricRig> StartAsync()
    {
        var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioPciModule(), "virtio_pci");
        await rig.InitModuleAsync(new VirtioNetModule(), "virtio_net");
        return rig;
    }

    private static double Rate(int milliseconds, Func<bool> access) => Rate(milliseconds, access, out _);

    private static double Rate(int milliseconds, Func<bool> access, out long count)
    {
        count = 0;
        var start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start).TotalMilliseconds < milliseconds)
        {
            if (!access())
                throw new InvalidOperationException("A register access failed.");
            count++;
        }

        return count / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static double Exchange(NetDevice from, NetDevice to, int milliseconds)
    {
        var counter = new DriverNetBench.Counter();
        to.AddReceiver(counter);
        using var poller = to.OpenPoller(0);
        var frame = new byte[Length];
        VirtioNetConfig.WriteMac(frame, Mac + 1);
        VirtioNetConfig.WriteMac(frame.AsSpan(6), Mac);
        // The switch learns where the other one is.
        to.TryTransmit(NetBench.Swapped(frame), out _);
        DriverNetBench.Go(from, poller, counter, frame, default, Window, milliseconds / 10);
        return DriverNetBench.Go(from, poller, counter, frame, default, Window, milliseconds).Rate;
    }

    /// <summary>Servers that end before their functions do.</summary>
    private sealed class Servers : IAsyncDisposable
    {
        private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("vb");
        private readonly List<VfioUserServer> _all = [];

        internal IReadOnlyList<string> Paths => _all.ConvertAll(static s => s.Path);

        internal string PathOf(string name) => Path.Combine(_folder.FullName, name);

        internal void Start(VfioUserServer server)
        {
            _all.Add(server);
            server.Start();
        }

        public async ValueTask DisposeAsync()
        {
            foreach (var server in _all)
                await server.StopAsync();
            _folder.Delete(recursive: true);
        }
    }

    /// <summary>A fabric that has the function over vfio-user.</summary>
    private sealed class Guest : IAsyncDisposable
    {
        private readonly FabricRig _rig;
        private readonly RemoteFunction _function;

        private Guest(FabricRig rig, RemoteFunction function)
        {
            (_rig, _function) = (rig, function);
            Virtio = (VirtioBusDevice)rig.Virtio.Devices.Single();
            Net = NetSubsystem.Of(rig.Fabric).Class.Devices.OfType<NetDevice>().Single();
        }

        internal VirtioBusDevice Virtio { get; }

        internal NetDevice Net { get; }

        internal static async Task<Guest> ConnectAsync(string path, bool isLegacy)
        {
            var rig = await StartAsync();
            var function = VfioUserFunctionProvider.Connect(path);
            await rig.PlugAsync(isLegacy ? SpoiledFunction.WithoutCapabilities(function) : function);
            await rig.Fabric.SettleAsync();
            var guest = new Guest(rig, function);
            return guest.Virtio.IsLegacy == isLegacy ? guest : throw new InvalidOperationException("The driver uses the other registers.");
        }

        public async ValueTask DisposeAsync()
        {
            await _rig.DisposeAsync();
            _function.Dispose();
        }
    }
}
