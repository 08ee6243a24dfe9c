using System.Buffers.Binary;
using Virtbus.Memory;

namespace Virtbus.Tests.Trust;

/// <summary>
/// The driver's side of a split ring in a guest's memory, which may be put on another machine between any two calls. Buffers have fixed places: slot n its
/// three descriptors. What the device writes lies in a page of its own.
/// </summary>
/// <param name="memory">The guest's memory.</param>
/// <param name="at">Where the ring begins, a page.</param>
internal sealed class VirtioRing(GuestMemory memory, int at)
{
    public const int Size = 64;
    public const int Slots = Size / PartsMost;
    public const int Bytes = 2 * GuestMemory.PageSize;
    private const int PartsMost = 3;
    private const ushort Next = 1;
    private const ushort DeviceWrites = 2;
    private const int DescriptorBytes = 16;
    private const int AvailableAt = Size * DescriptorBytes;
    private const int UsedAt = GuestMemory.PageSize;
    private readonly Queue<int> _free = new(Enumerable.Range(0, Slots));
    private ushort _next;
    private ushort _seen;

    /// <summary>Where the device finds descriptors, what is available and what is used.</summary>
    public (Iova Descriptors, Iova Available, Iova Used) Places => (Address(at), Address(at + AvailableAt), Address(at + UsedAt));

    /// <summary>Slots that are with the device.</summary>
    public int InFlight => Slots - _free.Count;

    /// <summary>Buffers that the device has handed back so far.</summary>
    public uint Done { get; private set; }

    /// <summary>Takes a slot.</summary>
    public bool TryRent(out int slot) => _free.TryDequeue(out slot);

    /// <summary>Makes a slot available, for a device that looks.</summary>
    /// <param name="slot">The slot.</param>
    /// <param name="parts">Where in the memory its parts are, up to three.</param>
    public void Put(int slot, params ReadOnlySpan<(int At, int Length, bool IsWritten)> parts)
    {
        Span<byte> bytes = stackalloc byte[DescriptorBytes];
        for (var i = 0; i < parts.Length; i++)
        {
            var descriptor = (slot * PartsMost) + i;
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, Address(parts[i].At).Value);
            BinaryPrimitives.WriteInt32LittleEndian(bytes[8..], parts[i].Length);
            BinaryPrimitives.WriteUInt16LittleEndian(bytes[12..], (ushort)((parts[i].IsWritten ? DeviceWrites : 0) | (i + 1 < parts.Length ? Next : 0)));
            BinaryPrimitives.WriteUInt16LittleEndian(bytes[14..], (ushort)(descriptor + 1));
            memory.Write(at + (descriptor * DescriptorBytes), bytes);
        }

        Write16(at + AvailableAt + 4 + (2 * (_next % Size)), (ushort)(slot * PartsMost));
        Thread.MemoryBarrier();
        Write16(at + AvailableAt + 2, ++_next);
    }

    /// <summary>Takes back what the device is done with; the slot is free again.</summary>
    public bool TryTake(out int slot, out int written)
    {
        (slot, written) = (0, 0);
        Span<byte> bytes = stackalloc byte[8];
        memory.Read(at + UsedAt + 2, bytes[..2]);
        if (BinaryPrimitives.ReadUInt16LittleEndian(bytes) == _seen)
            return false;
        Thread.MemoryBarrier();
        memory.Read(at + UsedAt + 4 + (8 * (_seen++ % Size)), bytes);
        var head = BinaryPrimitives.ReadInt32LittleEndian(bytes);
        (slot, written) = (head / PartsMost, BinaryPrimitives.ReadInt32LittleEndian(bytes[4..]));
        if (head < 0 || head % PartsMost != 0 || slot >= Slots || _free.Contains(slot))
            throw new DeviceFailure($"the device hands back descriptor {head}, which it does not have");
        _free.Enqueue(slot);
        Done++;
        return true;
    }

    private static Iova Address(int at) => new(UserDevice.MemoryBase.Value + (ulong)at);

    private void Write16(int where, ushort value)
    {
        Span<byte> bytes = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        memory.Write(where, bytes);
    }
}
