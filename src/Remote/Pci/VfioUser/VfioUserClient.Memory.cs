using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>The memory that the device reaches.</summary>
public sealed partial class VfioUserClient
{
    /// <summary>How many ranges are mapped.</summary>
    public int MapCount
    {
        get
        {
            lock (_lock)
                return _maps.Count;
        }
    }

    /// <summary>Lets the device reach memory of this process.</summary>
    /// <param name="range">Where the device finds it; whole pages.</param>
    /// <param name="memory">The memory; the client takes a reference of its own.</param>
    /// <param name="offset">Byte offset in the memory.</param>
    /// <param name="access">What the device may do there.</param>
    /// <param name="file">The memory's file, which the server then maps; null lets it read and write by messages.</param>
    /// <param name="fileOffset">Where in the file the range begins.</param>
    /// <param name="fault">EINVAL, EEXIST, EACCES, ENOSPC; what the server answered; ETIMEDOUT; ECONNRESET.</param>
    public bool TryMapDma(
        IovaRange range, HostMemory memory, ulong offset, DmaAccess access, FileDescriptor? file, ulong fileOffset, out Fault fault) =>
        _space.TryMap(range.Start, range.Size, memory, offset, access, out fault) && TryMapAtServer(range, access, file, fileOffset, out fault);

    /// <summary>Lets the device reach memory by messages only.</summary>
    /// <param name="range">Where the device finds it; whole pages.</param>
    /// <param name="memory">What moves the bytes.</param>
    /// <param name="access">What the device may do there.</param>
    /// <param name="fault">As for the other one.</param>
    public bool TryMapDma(IovaRange range, IRemoteMemory memory, DmaAccess access, out Fault fault) =>
        _space.TryMap(range, memory, access, out fault) && TryMapAtServer(range, access, null, 0, out fault);

    /// <summary>
    /// Lets the device reach memory that the server maps by its file; what a server asks for by messages all the same comes to <paramref name="memory"/>.
    /// </summary>
    /// <param name="range">Where the device finds it; whole pages.</param>
    /// <param name="memory">What moves the bytes.</param>
    /// <param name="access">What the device may do there.</param>
    /// <param name="file">The memory's file.</param>
    /// <param name="fileOffset">Where in the file the range begins.</param>
    /// <param name="fault">As for the others.</param>
    public bool TryMapDma(IovaRange range, IRemoteMemory memory, DmaAccess access, FileDescriptor file, ulong fileOffset, out Fault fault) =>
        _space.TryMap(range, memory, access, out fault) && TryMapAtServer(range, access, file, fileOffset, out fault);

    /// <summary>
    /// Takes every range inside away, none being no error. The server is asked for one range at a time, with the bounds that it was mapped
    /// with: not all servers take others.
    /// </summary>
    /// <param name="range">What is taken away; its end may be 2^64.</param>
    /// <param name="fault">EINVAL: a mapping would be split; what the server answered.</param>
    public bool TryUnmapDma(IovaRange range, out Fault fault)
    {
        fault = Fault.None;
        Span<byte> request = stackalloc byte[DmaUnmapSize];
        foreach (var inside in MapsInside(range))
        {
            WriteUnmap(request, DmaUnmapSize, 0, inside);
            if (!TryAsk(VfioUserCommand.DMA_UNMAP, request, out fault) || !TryForget(inside, out fault))
                return false;
        }

        return true;
    }

    /// <summary>Takes one range away and asks which of its pages the device wrote to since that was asked last.</summary>
    /// <param name="range">A range as it was mapped.</param>
    /// <param name="pageSize">Bytes that one bit stands for.</param>
    /// <param name="bitmap">Bit n for page n; bits that are set stay set. As many words as the range needs.</param>
    /// <param name="fault">EINVAL: the log does not run, or the server keeps none; else as for the other one.</param>
    public bool TryUnmapDma(IovaRange range, ulong pageSize, Span<ulong> bitmap, out Fault fault)
    {
        const int Head = DmaUnmapSize + DirtyBitmapSize;
        var bytes = (int)BitmapSize(range.Size, pageSize);
        ArgumentOutOfRangeException.ThrowIfLessThan(bitmap.Length * sizeof(ulong), bytes, nameof(bitmap));
        var call = _channel.Rent();
        var request = call.Request(HeaderSize + Head);
        WriteUnmap(request[HeaderSize..], Head + bytes, UnmapDirtyBitmapFlag, range);
        MemoryMarshal.Write(request[(HeaderSize + DmaUnmapSize)..], new VfioUserDirtyBitmap { PageSize = pageSize, Size = (ulong)bytes });
        var done = TryCall(call, VfioUserCommand.DMA_UNMAP, request, default, out fault) &&
            (call.Reply.Length >= Head + bytes || Refuse(Errno.EPROTO, "the answer has no bitmap of that size", out fault));
        if (done)
            Merge(call.Reply.Slice(Head, bytes), bitmap);
        _channel.Return(call);
        return done && TryForget(range, out fault);
    }

    private static void WriteUnmap(Span<byte> payload, int argsz, uint flags, IovaRange range) =>
        MemoryMarshal.Write(payload, new VfioUserDmaUnmap { ArgSize = (uint)argsz, Flags = flags, Address = range.Start.Value, Size = range.Size });

    private static void Merge(ReadOnlySpan<byte> reply, Span<ulong> bitmap)
    {
        for (var i = 0; i < reply.Length / sizeof(ulong); i++)
            bitmap[i] |= BinaryPrimitives.ReadUInt64LittleEndian(reply[(i * sizeof(ulong))..]);
    }

    private bool TryMapAtServer(IovaRange range, DmaAccess access, FileDescriptor? file, ulong fileOffset, out Fault fault)
    {
        var call = _channel.Rent();
        var request = call.Request(HeaderSize + DmaMapSize);
        MemoryMarshal.Write(request[HeaderSize..], new VfioUserDmaMap
        {
            ArgSize = DmaMapSize,
            // The flags have the bits of DmaAccess.
            Flags = (uint)access,
            Offset = file is null ? 0 : fileOffset,
            Address = range.Start.Value,
            Size = range.Size,
        });
        var done = file is null
            ? TryCall(call, VfioUserCommand.DMA_MAP, request, default, out fault)
            : TryCall(call, VfioUserCommand.DMA_MAP, request, [file], out fault);
        _channel.Return(call);
        if (!done)
        {
            _space.TryUnmap(range, out _, out _);
            return false;
        }

        lock (_lock)
            _maps[range.Start.Value] = range.Size;
        return true;
    }

    private bool TryForget(IovaRange range, out Fault fault)
    {
        lock (_lock)
            _maps.Remove(range.Start.Value);
        return _space.TryUnmap(range, out _, out fault);
    }

    private IovaRange[] MapsInside(IovaRange range)
    {
        lock (_lock)
            return [.. _maps.Select(map => new IovaRange(new Iova(map.Key), map.Value)).Where(map => map.Start.Value >= range.Start.Value && map.Last <= range.Last)];
    }
}
