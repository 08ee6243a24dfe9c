using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Trust;

/// <summary>Does to a device all that a user can do to one, in an order that follows from a seed. What fails is no matter.</summary>
internal sealed class Monkey(UserDevice device, Random random)
{
    private const int Regions = 9;
    private const int Indexes = 5;
    private const int Places = 8;
    private const ulong PlaceSize = 0x10000;
    private const ulong FirstPlace = 0x40_0000_0000;
    private const int States = 8;
    private readonly byte[] _buffer = new byte[8192];
    private readonly ulong[] _bitmap = new ulong[4];

    /// <summary>One operation.</summary>
    public void Act()
    {
        switch (random.Next(32))
        {
            case < 14:
                device.Work(random);
                break;
            case < 17:
                ReadMany();
                break;
            case < 20:
                Map();
                break;
            case 20:
                device.Client.TryUnmapDma(Place(), out _);
                break;
            case 21:
                device.Client.TryRead(UserDevice.ConfigRegion, 0, _buffer.AsSpan(0, 256), out _);
                break;
            case 22:
                // Anything; what it switches off is switched on again.
                random.NextBytes(_buffer.AsSpan(0, 4));
                device.Client.TryWrite(UserDevice.ConfigRegion, (ulong)(random.Next(64) * 4), _buffer.AsSpan(0, 4), out _);
                device.Enable();
                break;
            case < 26:
                SetInterrupts();
                break;
            case 26:
                Describe();
                break;
            case 27:
                Ring();
                break;
            case 28:
                device.Client.TryReset(out _);
                device.Enable();
                break;
            case 29:
                Log();
                break;
            default:
                Migrate();
                break;
        }
    }

    private IovaRange Place() => new(new Iova(FirstPlace + ((ulong)random.Next(Places) * PlaceSize)), PlaceSize);

    private void Map() =>
        device.Client.TryMapDma(
            Place(), device.Memory.Memory, PlaceSize * (ulong)random.Next(Places), (DmaAccess)random.Next(1, 4), random.Next(2) == 0 ? device.Memory.File : null, 0, out _);

    private void ReadMany()
    {
        var batch = device.Client.CreateBatch();
        for (var i = random.Next(1, 64); i > 0; i--)
            batch.AddRead((uint)random.Next(Regions), (ulong)random.Next(0x1000), 1 << random.Next(4));
        batch.TryRun(out _);
    }

    private void SetInterrupts()
    {
        var start = random.Next(UserDevice.Vectors);
        var count = random.Next(UserDevice.Vectors - start + 1);
        var action = random.Next(3) switch
        {
            0 => VfioIrqSetFlags.ActionMask,
            1 => VfioIrqSetFlags.ActionUnmask,
            _ => VfioIrqSetFlags.ActionTrigger,
        };
        var index = (uint)random.Next(Indexes - 1);
        var set = random.Next(3) switch
        {
            0 => new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | action, Index = index, Start = (uint)start, Count = (uint)count },
            1 => new VfioIrqSet { Flags = VfioIrqSetFlags.DataBool | action, Index = index, Start = (uint)start, Count = (uint)count, Bools = _buffer.AsSpan(0, count) },
            _ => new VfioIrqSet
            {
                Flags = VfioIrqSetFlags.DataEventFd | action,
                Index = index,
                Start = (uint)start,
                Count = (uint)count,
                EventFds = device.Signals.AsSpan(start, count)!,
            },
        };
        device.Client.TrySetIrqs(set, out _);
    }

    private void Describe()
    {
        var region = (uint)random.Next(Regions);
        device.Client.TryGetIrqInfo((uint)random.Next(Indexes), out _, out _);
        if (!device.Client.TryGetRegionInfo(region, out var info, out _))
            return;
        foreach (var area in info!.Areas)
        {
            if (!HostMemory.TryMap(area.File, area.FileOffset, area.Size, DmaAccess.ReadWrite, out var memory, out _))
                continue;
            using (memory)
                memory!.Write(0, _buffer.AsSpan(0, (int)Math.Min((ulong)_buffer.Length, area.Size)));
        }
    }

    private void Ring()
    {
        for (var bar = 0u; bar < 6; bar++)
        {
            if (!device.Client.TryGetDoorbells(bar, out var doorbells, out _))
                return;
            foreach (var doorbell in doorbells)
                doorbell.Signal.Signal();
        }
    }

    private void Log()
    {
        var pageSize = 4096UL;
        switch (random.Next(3))
        {
            case 0:
                device.Client.TryStartDmaLogging(ref pageSize, [new IovaRange(UserDevice.MemoryBase, UserDevice.MemorySize)], out _);
                break;
            case 1:
                device.Client.TryStopDmaLogging(out _);
                break;
            default:
                device.Client.TryReportDmaLogging(new IovaRange(UserDevice.MemoryBase, UserDevice.MemorySize), pageSize, _bitmap, out _);
                break;
        }
    }

    private void Migrate()
    {
        if (!device.Client.TryGetMigrationFlags(out _, out _))
            return;
        device.Client.TrySetMigrationState((VfioMigrationState)random.Next(States), out _);
        switch (random.Next(4))
        {
            case 0:
                device.Client.TryReadMigrationData(_buffer.AsSpan(0, random.Next(1, _buffer.Length)), out _, out _);
                break;
            case 1:
                device.Client.TryWriteMigrationData(_buffer.AsSpan(0, random.Next(1, 64)), out _);
                break;
            default:
                device.Client.TrySetMigrationState(VfioMigrationState.Running, out _);
                break;
        }
    }
}
