using System.Buffers.Binary;
using System.Diagnostics;
using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Bench;

/// <summary>A virtio disk and a driver of its first queue in the same process, which kicks by eventfd and looks for answers by itself.</summary>
internal sealed class PollDisk : IDisposable
{
    private const int Size = 128;
    private const ulong Base = 0x100000;
    private const ulong Ring = 0x1000;
    private const ulong Slots = 0x4000;
    private const ulong Slot = 0x2000;
    private const int StatusBeside = 0x20;

    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly EventFd[] _kicks;
    private readonly DriverRing[] _rings;
    private readonly VirtioBlkDevice _device;
    private readonly int[] _slotOfHead = new int[Size];
    private readonly ulong _sectors;
    private uint _random = 1;

    internal PollDisk(string name, IBlockBackend backend, int queues, bool ownThreads, bool small, bool packed = false)
    {
        _sectors = (ulong)backend.Info.Capacity / 512;
        _memory = HostMemory.Allocate("virtbus-bench", Slots + (small ? 0 : Size * Slot), out var file);
        file.Dispose();
        _space.TryMap(new Iova(Base), _memory.Size, _memory, 0, DmaAccess.ReadWrite, out _);
        _device = new VirtioBlkDevice(name, backend, "bench", queues, Size, packed: packed);
        _device.UseOwnThreads(ownThreads);
        var dma = new StandaloneDma(name);
        dma.Attach(_space);
        _device.SetDma(dma.Port);
        _device.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER, out _);
        _device.TrySetDriverFeatures(_device.DeviceFeatures, out _);
        _device.TrySetStatus(11, out _);
        _kicks = new EventFd[queues];
        _rings = new DriverRing[queues];
        for (var i = 0; i < queues; i++)
        {
            _kicks[i] = new EventFd();
            var (at, size) = ((ulong)i * Ring * 2, small ? 16 : Size);
            _rings[i] = packed
                ? new PackedDriverRing(_memory, new Iova(Base), at, size, eventIndex: true, indirect: true, inOrder: true)
                : new SplitDriverRing(_memory, new Iova(Base), at, size, eventIndex: true, indirect: true, inOrder: true);
            var layout = _rings[i].Layout;
            _device.TrySetQueueSize(i, layout.Size, out _);
            _device.TrySetQueueAddress(i, layout.DescriptorArea, layout.DriverArea, layout.DeviceArea, out _);
            _device.SetQueueKick(i, _kicks[i]);
            if (!_device.TrySetQueueReady(i, true, out var fault))
                throw new InvalidOperationException(fault.Message);
        }

        if (!_device.TrySetStatus(15, out var refused))
            throw new InvalidOperationException(refused.Message);
    }

    /// <summary>Maps and unmaps pages that no request uses, evenly, until it is told to stop.</summary>
    /// <param name="rate">Changes a second, a map or an unmap each.</param>
    /// <param name="elsewhere">Whether in a space that the disk does not reach, for what the changes cost by themselves.</param>
    /// <param name="stop">Ends it.</param>
    /// <returns>Changes made.</returns>
    internal long Change(int rate, bool elsewhere, CancellationToken stop)
    {
        using var other = new IoAddressSpace();
        var dma = new StandaloneDma("other");
        dma.Attach(other);
        var space = elsewhere ? other : _space;
        var range = new IovaRange(new Iova(0x4000_0000), 4096);
        var since = Stopwatch.GetTimestamp();
        var changes = 0L;
        while (!stop.IsCancellationRequested)
        {
            // Ten at a time: a sleep is longer than the pause between two.
            for (var i = 0; i < 5; i++, changes += 2)
            {
                if (!space.TryMap(range.Start, range.Size, _memory, 0, DmaAccess.ReadWrite, out var fault) || !space.TryUnmap(range, out _, out fault))
                    throw new InvalidOperationException(fault.Message);
            }

            var left = TimeSpan.FromSeconds((double)changes / rate) - Stopwatch.GetElapsedTime(since);
            if (left > TimeSpan.Zero)
                stop.WaitHandle.WaitOne(left);
        }

        return changes;
    }

    /// <summary>Reads 4 KiB again and again.</summary>
    /// <param name="depth">How many at a time, up to 42.</param>
    /// <param name="time">For how long.</param>
    /// <param name="anywhere">
    /// Whether each read is of a place of its own, so that its header is written and its status read, as a driver has to, and both lie in one line that
    /// goes to the device and back; else each slot reads its place again, and only the ring goes to and fro.
    /// </param>
    /// <returns>Reads a second.</returns>
    internal double Drive(int depth, TimeSpan time, bool anywhere = false)
    {
        var ring = _rings[0];
        var kick = _kicks[0];
        Span<byte> header = stackalloc byte[16];
        header.Clear();
        for (var slot = 0; slot < depth; slot++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(header[8..], (ulong)(slot * 8));
            _memory.Write(Slots + ((ulong)slot * Slot), header);
        }

        ring.RequestCalls(false);
        var since = Stopwatch.GetTimestamp();
        for (var slot = 0; slot < depth; slot++)
            Add(ring, slot, anywhere);
        if (ring.Publish())
            kick.Signal();
        var done = 0L;
        var inFlight = depth;
        var end = since + (long)(time.TotalSeconds * Stopwatch.Frequency);
        var isOver = false;
        while (inFlight > 0)
        {
            var any = false;
            while (ring.TryTakeUsed(out var head, out _, out _))
            {
                done++;
                inFlight--;
                if (anywhere && Status(_slotOfHead[head]) != 0)
                    throw new InvalidOperationException("A read failed.");
                if (isOver)
                    continue;
                Add(ring, _slotOfHead[head], anywhere);
                inFlight++;
                any = true;
            }

            if (any)
            {
                ring.RequestCalls(false);
                if (ring.Publish())
                    kick.Signal();
                isOver = Stopwatch.GetTimestamp() > end;
            }
            else
            {
                Thread.SpinWait(4);
            }
        }

        return done / Stopwatch.GetElapsedTime(since).TotalSeconds;
    }

    public void Dispose()
    {
        _device.Dispose();
        foreach (var kick in _kicks)
            kick.Dispose();
        _space.Dispose();
        _memory.Dispose();
    }

    private Span<byte> Frame(int slot) => _memory.Take(Slots + ((ulong)slot * Slot), StatusBeside + 1).AsSpan();

    private byte Status(int slot) => Volatile.Read(ref Frame(slot)[StatusBeside]);

    private void Add(DriverRing ring, int slot, bool anywhere)
    {
        var at = Base + Slots + ((ulong)slot * Slot);
        if (anywhere)
        {
            _random = (_random * 1664525) + 1013904223;
            var frame = Frame(slot);
            BinaryPrimitives.WriteUInt64LittleEndian(frame[8..], _random % (_sectors / 8) * 8);
            frame[StatusBeside] = byte.MaxValue;
        }

        var head = ring.Add(
        [
            new DriverBuffer(new Iova(at), 16, false),
            new DriverBuffer(new Iova(at + 0x100), 4096, true),
            new DriverBuffer(new Iova(at + (anywhere ? StatusBeside : 0x80UL)), 1, true),
        ]);
        _slotOfHead[head] = slot;
    }
}
