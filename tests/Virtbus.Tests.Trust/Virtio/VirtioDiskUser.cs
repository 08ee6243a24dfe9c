using System.Buffers.Binary;
using Virtbus.Models.VirtioBlk;
using static Virtbus.Models.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Tests.Trust;

/// <summary>The driver of a disk, which writes, reads and flushes at random, many at a time, and knows each byte that is to be there.</summary>
internal sealed class VirtioDiskUser : VirtioUser
{
    public const int DiskSize = 1 << 20;
    public const int MemoryNeeded = VirtioRing.Bytes + DataAt + (VirtioRing.Slots * MostBytes);
    private const int Sector = 512;
    private const int MostBytes = 4096;
    private const int HeaderSize = 16;
    // What the guest writes and what the device does are in pages of their own.
    private const int StatusAt = GuestMemory.PageSize;
    private const int DataAt = 2 * GuestMemory.PageSize;
    private const byte NoStatus = 0xFF;
    private readonly Random _random;
    private readonly byte[] _content = new byte[DiskSize];
    private readonly bool _isKnown;
    private readonly (uint Type, int From, byte[] Bytes)[] _requests = new (uint, int, byte[])[VirtioRing.Slots];

    public VirtioDiskUser(Attachment function, GuestMemory memory, int at, Random random)
        : base(function, memory, at, 1, VIRTIO_BLK_F_FLUSH)
    {
        _random = random;
        ReadAll();
        _isKnown = true;
    }

    /// <summary>All that is to be on the disk when nothing is in flight.</summary>
    public ReadOnlySpan<byte> Content => _content;

    /// <summary>Requests that were done.</summary>
    public uint Done => Rings[0].Done;

    /// <summary>Gives the device requests, which it may find before it is told.</summary>
    /// <param name="count">How many at most.</param>
    public void Publish(int count)
    {
        for (; count > 0; count--)
        {
            var length = _random.Next(1, (MostBytes / Sector) + 1) * Sector;
            var from = _random.Next((DiskSize - length) / Sector) * Sector;
            // Which of two that overlap comes first is the device's to choose.
            if (Overlaps(from, length) || !Rings[0].TryRent(out var slot))
                continue;
            var type = _random.Next(8) switch { 0 => VIRTIO_BLK_T_FLUSH, < 4 => VIRTIO_BLK_T_IN, _ => VIRTIO_BLK_T_OUT };
            var bytes = new byte[type == VIRTIO_BLK_T_FLUSH ? 0 : length];
            _random.NextBytes(bytes);
            Put(slot, type, from, bytes);
        }
    }

    public override void Ring() => Registers.Notify(0);

    public override void Listen()
    {
        Span<byte> status = stackalloc byte[1];
        while (Rings[0].TryTake(out var slot, out var written))
        {
            var (type, from, bytes) = _requests[slot];
            _requests[slot] = default;
            Memory.Read(Place(StatusAt + slot), status);
            Demand(status[0] == VIRTIO_BLK_S_OK, $"a request of type {type} at {from} ended with {status[0]}");
            Demand(written == (type == VIRTIO_BLK_T_IN ? bytes.Length + 1 : 1), $"a request of type {type} for {bytes.Length} bytes wrote {written}");
            switch (type)
            {
                case VIRTIO_BLK_T_OUT:
                    bytes.CopyTo(_content.AsSpan(from));
                    break;
                case VIRTIO_BLK_T_IN:
                    Memory.Read(DataOf(slot), bytes);
                    if (!_isKnown)
                        bytes.CopyTo(_content.AsSpan(from));
                    Demand(bytes.AsSpan().SequenceEqual(_content.AsSpan(from, bytes.Length)), $"{bytes.Length} bytes at {from} are not what was written");
                    break;
            }
        }
    }

    /// <summary>Reads the whole disk, each byte of which is compared. Nothing is in flight.</summary>
    public void ReadAll()
    {
        for (var from = 0; from < DiskSize || InFlight > 0;)
        {
            for (; from < DiskSize && Rings[0].TryRent(out var slot); from += MostBytes)
                Put(slot, VIRTIO_BLK_T_IN, from, new byte[MostBytes]);
            Ring();
            var before = Done;
            Demand(SpinWait.SpinUntil(
                () =>
                {
                    Listen();
                    return Done > before;
                },
                UserDevice.Patience), "requests are not answered");
        }
    }

    private void Put(int slot, uint type, int from, byte[] bytes)
    {
        _requests[slot] = (type, from, bytes);
        Span<byte> header = stackalloc byte[HeaderSize];
        header.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        BinaryPrimitives.WriteInt64LittleEndian(header[8..], from / Sector);
        Memory.Write(Place(slot * HeaderSize), header);
        Memory.Write(Place(StatusAt + slot), [NoStatus]);
        (int, int, bool) head = (Place(slot * HeaderSize), HeaderSize, false), status = (Place(StatusAt + slot), 1, true);
        if (type == VIRTIO_BLK_T_OUT)
            Memory.Write(DataOf(slot), bytes);
        if (bytes.Length == 0)
            Rings[0].Put(slot, head, status);
        else
            Rings[0].Put(slot, head, (DataOf(slot), bytes.Length, type == VIRTIO_BLK_T_IN), status);
    }

    private int DataOf(int slot) => Place(DataAt + (slot * MostBytes));

    private bool Overlaps(int from, int length) =>
        Array.Exists(_requests, r => r.Bytes is { Length: > 0 } bytes && r.From < from + length && from < r.From + bytes.Length);
}
