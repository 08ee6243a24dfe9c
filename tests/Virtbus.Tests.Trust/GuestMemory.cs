using System.Buffers.Binary;
using System.Numerics;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Tests.Trust;

/// <summary>
/// The memory of a guest that has devices, with a log of the pages that the guest itself writes; those that devices write are in the devices' own
/// logs. It can be put on another machine: what a driver has of it stays valid.
/// </summary>
internal sealed class GuestMemory : IDisposable
{
    public const int PageSize = 4096;

    private readonly ulong[] _dirty;
    private HostMemory _memory;
    private FileDescriptor _file;

    /// <param name="size">Bytes, whole pages.</param>
    public GuestMemory(int size)
    {
        Size = size;
        _memory = HostMemory.Allocate(DaemonProcess.UserMemory, (ulong)size, out _file);
        _dirty = new ulong[((size / PageSize) + 63) / 64];
    }

    public int Size { get; }

    public HostMemory Memory => _memory;

    public FileDescriptor File => _file;

    public void Write(int at, ReadOnlySpan<byte> bytes)
    {
        _memory.Write((ulong)at, bytes);
        for (var page = at / PageSize; page <= (at + bytes.Length - 1) / PageSize; page++)
            _dirty[page / 64] |= 1UL << (page % 64);
    }

    public void Write32(int at, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        Write(at, bytes);
    }

    public void Read(int at, Span<byte> bytes) => _memory.Read((ulong)at, bytes);

    public uint Read32(int at)
    {
        Span<byte> bytes = stackalloc byte[4];
        Read(at, bytes);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    public byte[] Copy()
    {
        var bytes = new byte[Size];
        Read(0, bytes);
        return bytes;
    }

    /// <summary>Copies pages to another memory of the same size, those that the guest wrote among them, and begins a new log.</summary>
    /// <param name="pages">Bit n for page n: what devices wrote.</param>
    /// <param name="target">Where to.</param>
    /// <returns>How many pages that were.</returns>
    public int CopyDirty(ReadOnlySpan<ulong> pages, GuestMemory target)
    {
        Span<byte> page = stackalloc byte[PageSize];
        var count = 0;
        for (var word = 0; word < _dirty.Length; word++)
        {
            // Cleared before they are read: what is written from here on is in the next log.
            var bits = _dirty[word] | pages[word];
            _dirty[word] = 0;
            for (; bits != 0; bits &= bits - 1)
            {
                var at = ((word * 64) + BitOperations.TrailingZeroCount(bits)) * PageSize;
                Read(at, page);
                target._memory.Write((ulong)at, page);
                count++;
            }
        }
        return count;
    }

    /// <summary>The guest goes on with the memory of another machine, which that one gives away.</summary>
    public void MoveTo(GuestMemory other)
    {
        (_memory, other._memory) = (other._memory, _memory);
        (_file, other._file) = (other._file, _file);
    }

    public void Dispose()
    {
        _memory.Dispose();
        _file.Dispose();
    }
}
