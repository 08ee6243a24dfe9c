using Virtbus.Buses.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A user that does as it likes with the ports while what is behind them comes and goes.</summary>
public sealed class VirtioVfioTrustTests
{
    private const int Rounds = 12;
    private const int AccessesARound = 300;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public async Task Ports_that_are_hammered_hurt_nobody_while_all_behind_them_comes_and_goes(int seed)
    {
        await using var host = await VirtioVfioMachine.StartAsync();
        var random = new Random(seed);
        using var stop = new CancellationTokenSource();
        var done = 0L;
        var answered = 0L;
        var hammer = Task.Factory.StartNew(() => Hammer(host, new Random(seed * 7), ref done, ref answered, stop.Token), stop.Token, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        var virtio = host.Rig.Base.Virtio.Devices.Single(d => d.Parent == host.Physical);
        var net = virtio.Driver!;
        for (var round = 0; round < Rounds; round++)
        {
            var before = Volatile.Read(ref done);
            await Deadline.UntilAsync(() => Volatile.Read(ref done) - before > AccessesARound, "accesses");
            switch (random.Next(4))
            {
                case 0:
                    await PciReset.ResetAsync(host.Physical).In();
                    break;
                case 1:
                    await host.Rig.Fabric.UnbindAsync(virtio.Driver!, virtio.Name).In();
                    await host.Rig.Fabric.BindAsync(net, virtio.Name).In();
                    break;
                case 2:
                    host.Offered.Revoke();
                    await host.Rig.Fabric.UnbindAsync(host.Function.Driver!, host.Function.Name).In();
                    await host.OfferAgainAsync();
                    break;
                default:
                    await PciReset.ResetAsync(host.Function).In();
                    break;
            }

            await host.Rig.Fabric.SettleAsync().In();
            virtio = host.Rig.Base.Virtio.Devices.Single(d => d.Parent == host.Physical);
        }

        await stop.CancelAsync();
        await hammer.In();
        Assert.True(answered > 0);
        using var user = VfioPciWorld.Open(host.Function);
        using var driver = new OldNetUser(user);
        driver.Start();
        host.Seen.Clear();
        driver.Send(VirtioNetTests.Frame(VirtioVfioMachine.Here, VirtioVfioMachine.There, 60, 1));
        await driver.SentAsync();
        await Deadline.UntilAsync(() => !host.Seen.IsEmpty, "a frame");
        Assert.DoesNotContain(host.Rig.Base.Log.Lines, static l => l.StartsWith("Error", StringComparison.Ordinal));
    }

    private static void Hammer(VirtioVfioMachine host, Random random, ref long done, ref long answered, CancellationToken stop)
    {
        Span<byte> bytes = stackalloc byte[64];
        while (!stop.IsCancellationRequested)
        {
            if (!host.Offered.TryOpen("hammer", out var handle, out _))
            {
                Interlocked.Increment(ref done);
                Thread.Yield();
                continue;
            }

            using (handle)
            {
                handle!.TryWrite(PciUser.Config, 4, [7, 0], out _);
                while (!stop.IsCancellationRequested)
                {
                    Interlocked.Increment(ref done);
                    var part = bytes[..(1 << random.Next(4))];
                    random.NextBytes(part);
                    var offset = (ulong)random.Next(36);
                    var isDone = random.Next(3) == 0
                        ? handle.TryRead(0, offset, part, out var fault)
                        : handle.TryWrite(0, offset, part, out fault);
                    if (isDone)
                        Interlocked.Increment(ref answered);
                    else if (fault.Errno == Errno.ENODEV && handle.IsRevoked)
                        break;
                    else if (fault.Errno == Errno.EIO)
                        handle.TryWrite(PciUser.Config, 4, [7, 0], out _);
                    if (random.Next(100) == 0)
                        Migrate(handle, random);
                }
            }
        }
    }

    private static void Migrate(VfioHandle handle, Random random)
    {
        if (handle.Migration is not { } migration)
            return;
        migration.TrySetState((VfioMigrationState)random.Next(8), out var stream, out _);
        var bytes = new byte[32];
        random.NextBytes(bytes);
        stream?.TryRead(bytes, out _, out _);
        stream?.TryWrite(bytes, out _);
        if (!migration.TrySetState(VfioMigrationState.Running, out _, out _))
            handle.TryReset(out _);
    }
}
