using System.Buffers.Binary;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Pci;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Models.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>A guest with a disk. It knows what may be in each sector: what was written there last, and what was on its way at a reset.</summary>
internal sealed class DiskGuest : SimGuest
{
    public const int QueueCount = 2;

    private const int Bad = 100;
    private const int StatusAt = 16;

    // By sector, numbers of contents; 0 is that of a new disk.
    private readonly HashSet<ulong>[] _allowed = [.. Enumerable.Range(0, SimDisk.Sectors).Select(static _ => new HashSet<ulong> { 0 })];
    private readonly bool[] _isBusy = new bool[SimDisk.Sectors];
    private readonly List<DriverBuffer> _buffers = [];
    private readonly byte[] _bytes = new byte[2 * SimDisk.SectorSize];
    private readonly int _virtualFunctions;

    public DiskGuest(VirtioSimulation sim, int number, string name, int virtualFunctions)
        : base(sim, number, name, QueueCount)
    {
        _virtualFunctions = virtualFunctions;
        Disk = new SimDisk(sim);
    }

    public SimDisk Disk { get; }

    public static VirtioBlkDevice MakeDevice(string name, SimDisk disk) => new(name, disk, "simulation", QueueCount, SimQueue.Size, packed: true);

    public override void Submit()
    {
        var queue = Queues[Sim.Next(QueueCount)];
        var kind = Sim.Next(16) switch
        {
            < 6 => (int)VIRTIO_BLK_T_IN,
            < 12 => (int)VIRTIO_BLK_T_OUT,
            12 => (int)VIRTIO_BLK_T_FLUSH,
            13 => (int)VIRTIO_BLK_T_GET_ID,
            _ => Bad,
        };
        Submit(queue, kind, Sim.Next(SimDisk.Sectors - 1), 1 + Sim.Next(2));
    }

    public override void SubmitLast() => Submit(Queues[0], (int)VIRTIO_BLK_T_IN, 0, 1);

    /// <summary>The disk has what its guest knows.</summary>
    public void CheckContent()
    {
        for (var sector = 0; sector < SimDisk.Sectors; sector++)
            CheckSector(sector, Disk.Content.AsSpan(sector * SimDisk.SectorSize, SimDisk.SectorSize), "on the disk");
    }

    protected override (PciFunction Function, VirtioDevice Device) Make()
    {
        var device = MakeDevice(Name, Disk);
        return (new VirtioFunction(device, new VirtioFunctionOptions { VirtualFunctions = _virtualFunctions }, Sim.MakeVirtual(this)), device);
    }

    protected override VirtioFeatures Without() => SomeOfRings() | Some(VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE, VirtioFeatures.VIRTIO_F_RING_RESET);

    protected override void Finish(SimQueue queue, SimRequest request, uint written)
    {
        Span<byte> status = stackalloc byte[1];
        Read(request.Slot, StatusAt, status);
        var expected = request.Kind switch
        {
            Bad when request.Place >= SimDisk.Sectors => VIRTIO_BLK_S_IOERR,
            Bad => VIRTIO_BLK_S_UNSUPP,
            _ => VIRTIO_BLK_S_OK,
        };
        Require(status[0] == expected, $"request {request.Kind} for sector {request.Place} ends with {status[0]}");
        var length = request.Length * SimDisk.SectorSize;
        switch (request.Kind)
        {
            case (int)VIRTIO_BLK_T_IN:
                Require(written == length + 1, $"a read of {length} bytes says {written}");
                Read(request.Slot, ContentAt, _bytes.AsSpan(0, length));
                for (var i = 0; i < request.Length; i++)
                    CheckSector(request.Place + i, _bytes.AsSpan(i * SimDisk.SectorSize, SimDisk.SectorSize), "read");
                CheckClear(request.Slot, ContentAt + length, _bytes.Length - length);
                break;
            case (int)VIRTIO_BLK_T_OUT:
                for (var i = 0; i < request.Length; i++)
                    _allowed[request.Place + i] = [request.Number];
                break;
        }

        Free(request);
    }

    protected override void Lose(SimQueue queue, SimRequest request)
    {
        for (var i = 0; i < request.Length && request.Kind == (int)VIRTIO_BLK_T_OUT; i++)
            _allowed[request.Place + i].Add(request.Number);
        Free(request);
    }

    protected override void CheckCounters()
    {
        for (var i = 0; i < Queues.Length; i++)
            Require(Device!.GetQueueCounters(i).Requests == Queues[i].Taken, $"queue {i} counted {Device.GetQueueCounters(i).Requests} requests, and {Queues[i].Taken} came back");
        Require(Disk.InFlight == 0, "it is gone and its disk is at work for it");
    }

    private static void Fill(Span<byte> bytes, ulong number, int sector)
    {
        bytes.Clear();
        for (var i = 0; number != 0 && i + 8 <= bytes.Length; i += 8)
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[i..], (number << 16) ^ ((ulong)sector << 8) ^ (ulong)i);
    }

    private void Submit(SimQueue queue, int kind, int sector, int sectors)
    {
        var moves = kind is (int)VIRTIO_BLK_T_IN or (int)VIRTIO_BLK_T_OUT;
        if (!moves)
            sectors = 0;
        if (queue.Ring is null || !queue.HasRoom || (moves && _isBusy.AsSpan(sector, sectors).Contains(true)))
            return;
        // Beyond the end, or of a kind that there is not.
        if (kind == Bad)
            (sector, sectors) = Sim.Next(2) == 0 ? (SimDisk.Sectors + Sim.Next(3), 1) : (0, 0);
        var request = new SimRequest(queue.TakeSlot(), kind, Sim.TakeNumber(), sector, moves ? sectors : 0);
        Span<byte> header = stackalloc byte[16];
        header.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(header, kind == Bad ? (sector == 0 ? 77 : VIRTIO_BLK_T_IN) : (uint)kind);
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], (ulong)sector);
        Verify();
        Write(request.Slot, 0, header);
        Clear(request.Slot, StatusAt, 1);
        Clear(request.Slot, ContentAt, _bytes.Length);
        _buffers.Clear();
        _buffers.Add(Buffer(request.Slot, 0, 16, false));
        if (kind == (int)VIRTIO_BLK_T_OUT)
        {
            for (var i = 0; i < sectors; i++)
                Fill(_bytes.AsSpan(i * SimDisk.SectorSize, SimDisk.SectorSize), request.Number, sector + i);
            Write(request.Slot, ContentAt, _bytes.AsSpan(0, sectors * SimDisk.SectorSize));
            Cut(_buffers, request.Slot, ContentAt, sectors * SimDisk.SectorSize, false);
        }
        else if (kind == (int)VIRTIO_BLK_T_IN || (kind == Bad && sectors > 0))
        {
            Cut(_buffers, request.Slot, ContentAt, sectors * SimDisk.SectorSize, true);
        }
        else if (kind == (int)VIRTIO_BLK_T_GET_ID)
        {
            Cut(_buffers, request.Slot, ContentAt, 20, true);
        }

        _buffers.Add(Buffer(request.Slot, StatusAt, 1, true));
        Wrote();
        for (var i = 0; i < request.Length; i++)
            _isBusy[sector + i] = true;
        if (!Put(queue, request, _buffers))
            Free(request);
    }

    private void Free(SimRequest request)
    {
        for (var i = 0; i < request.Length; i++)
            _isBusy[request.Place + i] = false;
    }

    private void CheckSector(int sector, ReadOnlySpan<byte> bytes, string where)
    {
        Span<byte> expected = stackalloc byte[SimDisk.SectorSize];
        foreach (var number in _allowed[sector])
        {
            Fill(expected, number, sector);
            if (!bytes.SequenceEqual(expected))
                continue;
            // From here on it is that.
            if (_allowed[sector].Count > 1 && !_isBusy[sector])
                _allowed[sector] = [number];
            return;
        }

        Require(false, $"sector {sector} {where} has what nobody wrote there");
    }
}
