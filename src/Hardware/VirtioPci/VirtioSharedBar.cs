using System.Numerics;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>
/// The BAR with the memory that a device shares with its driver (VIRTIO 1.3, 4.1.4.7): one region behind the other, each from a page on. Any thread; it needs no
/// turn with registers.
/// </summary>
internal sealed class VirtioSharedBar : IDisposable
{
    private static readonly ulong Page = (ulong)Environment.SystemPageSize;
    private readonly Lock _lock = new();
    private readonly VirtioDevice _device;
    private readonly Region[] _regions;
    private bool _isOver;

    /// <summary>Lays the regions of a device out.</summary>
    /// <exception cref="VirtbusException">EINVAL: two have one id.</exception>
    internal VirtioSharedBar(VirtioDevice device)
    {
        _device = device;
        var regions = new List<Region>();
        foreach (var (id, memory) in device.SharedMemory)
        {
            if (regions.Exists(region => region.Id == id))
                throw new VirtbusException(Errno.EINVAL, $"Device '{device.Name}' has two regions of shared memory with the id {id}. Give each its own.");
            regions.Add(new Region(id, Size, memory.Size));
            Size += (memory.Size + Page - 1) & ~(Page - 1);
        }

        _regions = [.. regions];
        Size = Size == 0 ? 0 : BitOperations.RoundUpToPowerOf2(Size);
    }

    /// <summary>Bytes of the BAR, a power of two; 0 for none.</summary>
    internal ulong Size { get; }

    /// <summary>The regions, in the order of the device.</summary>
    internal IReadOnlyList<Region> Regions => _regions;

    /// <summary>What of it can be mapped.</summary>
    internal IReadOnlyList<PciBarArea> Areas
    {
        get
        {
            var areas = new List<PciBarArea>();
            lock (_lock)
            {
                for (var i = 0; i < _regions.Length && !_isOver; i++)
                {
                    var memory = _device.SharedMemory[i].Memory;
                    var size = memory.Size & ~(Page - 1);
                    if (memory.File is { } file && size != 0 && memory.FileOffset % Page == 0 && memory.Access == DmaAccess.ReadWrite)
                        areas.Add(new PciBarArea(_regions[i].Offset, size, file, memory.FileOffset));
                }
            }

            return areas;
        }
    }

    /// <summary>Reads; what is between and behind regions is left as it is.</summary>
    internal void Read(ulong offset, Span<byte> destination)
    {
        for (var i = 0; i < _regions.Length; i++)
        {
            if (!_regions[i].TryCut(offset, destination.Length, out var at, out var skip, out var length) || Borrow(i) is not { } memory)
                continue;
            using (memory)
                memory.Read(at, destination.Slice(skip, length));
        }
    }

    /// <summary>Writes; what is between and behind regions, and memory that is only read, swallows it.</summary>
    internal void Write(ulong offset, ReadOnlySpan<byte> source)
    {
        for (var i = 0; i < _regions.Length; i++)
        {
            if (!_regions[i].TryCut(offset, source.Length, out var at, out var skip, out var length) || Borrow(i) is not { } memory)
                continue;
            using (memory)
            {
                if (memory.Access.HasFlag(DmaAccess.Write))
                    memory.Write(at, source.Slice(skip, length));
            }
        }
    }

    /// <summary>The function changed hands: the device may exchange the memory.</summary>
    internal void ChangeUser()
    {
        lock (_lock)
        {
            if (!_isOver)
                _device.ChangeUser();
        }
    }

    /// <summary>The device goes, and its memory with it: what comes from now on finds none.</summary>
    public void Dispose()
    {
        lock (_lock)
            _isOver = true;
    }

    // A reference of its own, so that the end of the memory in the middle of an access takes nothing away.
    private HostMemory? Borrow(int region)
    {
        lock (_lock)
            return _isOver ? null : _device.SharedMemory[region].Memory.Acquire();
    }

    /// <summary>Where a region is in the BAR.</summary>
    internal readonly record struct Region(byte Id, ulong Offset, ulong Length)
    {
        /// <summary>What of an access lies in the region: where there, how many bytes of the access are before it, and how many it has.</summary>
        internal bool TryCut(ulong offset, int bytes, out ulong at, out int skip, out int length)
        {
            var start = Math.Max(offset, Offset);
            var end = Math.Min(offset + (uint)bytes, Offset + Length);
            at = start - Offset;
            skip = (int)Math.Min(start - offset, (uint)bytes);
            length = start < end ? (int)(end - start) : 0;
            return length > 0;
        }
    }
}
