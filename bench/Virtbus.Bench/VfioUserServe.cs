using System.Diagnostics;
using System.Globalization;
using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Core;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.VfioUser;

namespace Virtbus.Bench;

/// <summary>A device of plain registers on a vfio-user socket, until standard input ends; and a client of ours that measures against a socket.</summary>
internal static class VfioUserServe
{
    private const int AllocationAccesses = 1_000_000;
    private const double WarmSeconds = 1.5;

    internal static async Task<int> RunAsync(string[] args)
    {
        var fabric = new Fabric();
        var parent = new Device("bench");
        await fabric.AddAsync(parent);
        var ops = new Registers();
        var device = await VfioSubsystem.Of(fabric).RegisterAsync(parent, "bench", ops);
        await using var server = new VfioUserServer(args[0], device, NullLogger.Instance);
        server.Start();
        Console.WriteLine("ready");
        while (await Console.In.ReadLineAsync() is { } line)
        {
            if (line == "allocations")
                Console.WriteLine(MeasureAllocations(server, ops));
        }

        return 0;
    }

    /// <summary>Our own client: operations a second of one case.</summary>
    internal static int Load(string[] args)
    {
        var (work, seconds) = (args[0], double.Parse(args[2], CultureInfo.InvariantCulture));
        using var server = Process.GetProcessById(int.Parse(args[3], CultureInfo.InvariantCulture));
        using var self = Process.GetCurrentProcess();
        using var client = VfioUserClient.Connect(args[1], new VfioUserClientOptions { ServeMemory = false });
        using var memory = HostMemory.Allocate("bench", 4096, out var file);
        var range = new Memory.Dma.IovaRange(new Iova(0x1_0000_0000), 4096);
        var bytes = new byte[4];
        var batch = client.CreateBatch();
        for (var i = 0; i < 32; i++)
            batch.AddRead(0, 0, 4);
        long Round()
        {
            var good = true;
            switch (work)
            {
                case "read":
                    for (var i = 0; i < 100; i++)
                        good &= client.TryRead(0, 0, bytes, out _);
                    return good ? 100 : throw new InvalidOperationException("a read failed");
                case "write":
                    for (var i = 0; i < 100; i++)
                        good &= client.TryWrite(0, 0, bytes, out _);
                    return good ? 100 : throw new InvalidOperationException("a write failed");
                case "posted":
                    for (var i = 0; i < 1024; i++)
                        good &= client.TryPost(0, 0, bytes, out _);
                    good &= client.TryRead(0, 0, bytes, out _);
                    return good ? 1024 : throw new InvalidOperationException("a write failed");
                case "pipelined":
                    return batch.TryRun(out _) ? 32 : throw new InvalidOperationException("a read failed");
                default:
                    good &= client.TryMapDma(range, memory, 0, DmaAccess.ReadWrite, file, 0, out _) && client.TryUnmapDma(range, out _);
                    return good ? 1 : throw new InvalidOperationException("a map failed");
            }
        }

        // What is compiled again when it turns out to be hot is, by then. By processor time: on a busy host the clock says nothing about it.
        var before = Spent();
        while (Spent() - before < WarmSeconds)
        {
            for (var i = 0; i < 64; i++)
                Round();
        }

        var count = 0L;
        before = Spent();
        var start = TimeProvider.System.GetTimestamp();
        while (TimeProvider.System.GetElapsedTime(start).TotalSeconds < seconds)
            count += Round();
        var elapsed = TimeProvider.System.GetElapsedTime(start).TotalSeconds;
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{count / elapsed:0} {count / (Spent() - before):0}"));
        file.Dispose();
        return 0;

        double Spent()
        {
            server.Refresh();
            self.Refresh();
            return (server.TotalProcessorTime + self.TotalProcessorTime).TotalSeconds;
        }
    }

    private static string MeasureAllocations(VfioUserServer server, Registers ops)
    {
        WaitFor(server, ops, ops.Accesses + 100_000);
        var first = ops.Accesses;
        var before = GC.GetTotalAllocatedBytes(precise: true);
        WaitFor(server, ops, first + AllocationAccesses);
        return $"{GC.GetTotalAllocatedBytes(precise: true) - before} {ops.Accesses - first}";
    }

    private static void WaitFor(VfioUserServer server, Registers ops, long accesses)
    {
        // Looks now and then, since it shares the processor with what it looks at.
        using var never = new ManualResetEventSlim();
        for (var i = 0; i < 5000 && ops.Accesses < accesses && (server.IsConnected || ops.Accesses == 0 || i < 100); i++)
            never.Wait(2);
    }

    private sealed class Registers : IVfioDeviceOps
    {
        private readonly byte[] _bytes = new byte[4096];
        private long _accesses;

        internal long Accesses => Volatile.Read(ref _accesses);

        public VfioDeviceInfo Info => new(CanReset: true, IsPci: true, Regions: 9, Interrupts: 5);

        public IVfioMigrationOps? Migration => null;

        public IVfioDmaLoggingOps? DmaLogging => null;

        public bool TryOpen(VfioOwner user, out Fault fault)
        {
            fault = Fault.None;
            return true;
        }

        public void Close()
        {
        }

        public VfioRegionInfo GetRegionInfo(uint index) => index == 0
            ? new VfioRegionInfo(VfioRegionFlags.Read | VfioRegionFlags.Write, (ulong)_bytes.Length)
            : new VfioRegionInfo(VfioRegionFlags.None, 0);

        public VfioIrqInfo GetIrqInfo(uint index) => default;

        public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
        {
            fault = Fault.None;
            _accesses++;
            _bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
            return true;
        }

        public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
        {
            fault = Fault.None;
            _accesses++;
            source.CopyTo(_bytes.AsSpan((int)offset));
            return true;
        }

        public bool TrySetIrqs(in VfioIrqSet set, out Fault fault)
        {
            fault = Fault.None;
            return true;
        }

        public bool TryReset(out Fault fault)
        {
            fault = Fault.None;
            return true;
        }

        public void Request(int count)
        {
        }

        public bool TryAttach(IoAddressSpace? space, uint? pasid, out Fault fault)
        {
            fault = Fault.None;
            return true;
        }

        public IReadOnlyList<VfioDoorbell> GetDoorbells(uint region) => [];

        public bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault)
        {
            fault = new Fault(Errno.ENOENT, "there are no doorbells");
            return false;
        }
    }
}
