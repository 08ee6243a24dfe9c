using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Transports.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>What a client asks about the device, its interrupts, its features and its migration.</summary>
internal sealed partial class VfioUserSession
{
    private bool TryGetInfo(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, DeviceInfoSize, out fault) || !message.WantsReply || !TryReply(message, DeviceInfoSize, out var reply))
            return fault == Fault.None;
        BinaryPrimitives.WriteUInt32LittleEndian(reply, DeviceInfoSize);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[4..], (_info.CanReset ? 1u : 0) | (_info.IsPci ? 2u : 0));
        BinaryPrimitives.WriteUInt32LittleEndian(reply[8..], (uint)_info.Regions);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[12..], (uint)_info.Interrupts);
        return Keep(DeviceInfoSize);
    }

    private bool TryGetIrqInfo(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, IrqInfoSize, out fault) || !_handle.TryGetIrqInfo(message.Word(8), out var info, out fault))
            return false;
        if (!message.WantsReply || !TryReply(message, IrqInfoSize, out var reply))
            return true;
        BinaryPrimitives.WriteUInt32LittleEndian(reply, IrqInfoSize);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[4..], (uint)info.Flags);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[8..], message.Word(8));
        BinaryPrimitives.WriteUInt32LittleEndian(reply[12..], info.Count);
        return Keep(IrqInfoSize);
    }

    private bool TryGetRegionInfo(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, RegionInfoSize, out fault) || !_handle.TryGetRegionInfo(message.Word(8), out var info, out fault))
            return false;
        if (!message.WantsReply)
            return true;
        // One descriptor for a region, and one offset in its file: areas that lie elsewhere are read and written by messages.
        var areas = info!.Areas.Count == 0 ? [] : info.Areas.Where(area => area.File == info.Areas[0].File &&
            unchecked(area.FileOffset - area.Offset == info.Areas[0].FileOffset - info.Areas[0].Offset)).ToArray();
        // Who takes no descriptor maps nothing.
        var mmap = info.Flags.HasFlag(VfioRegionFlags.Mmap) && areas.Length > 0 && _peer.MaxDescriptors > 0;
        var sparse = mmap && !(areas.Length == 1 && areas[0].Offset == 0 && areas[0].Size == info.Size);
        var size = RegionInfoSize + (sparse ? SparseHeaderSize + (areas.Length * SparseAreaSize) : 0) + (info.Type is null ? 0 : TypeCapabilitySize);
        // What does not fit is told by its size; the client asks again. Without the capabilities a descriptor would say too much.
        var whole = message.Word(0) >= (uint)size;
        var length = whole ? size : RegionInfoSize;
        if (!TryReply(message, length, out var reply))
            return true;
        reply.Clear();
        var flags = info.Flags & ~(mmap ? VfioRegionFlags.None : VfioRegionFlags.Mmap);
        BinaryPrimitives.WriteUInt32LittleEndian(reply, (uint)size);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[4..], (uint)flags | (whole && size > RegionInfoSize ? RegionCapsFlag : 0));
        BinaryPrimitives.WriteUInt32LittleEndian(reply[8..], message.Word(8));
        BinaryPrimitives.WriteUInt64LittleEndian(reply[16..], info.Size);
        if (mmap)
            BinaryPrimitives.WriteUInt64LittleEndian(reply[24..], unchecked(areas[0].FileOffset - areas[0].Offset));
        if (whole && size > RegionInfoSize)
            WriteCapabilities(reply, sparse ? areas : [], info.Type);
        if (!whole || !mmap)
            return Keep(length);
        _outbox.TrySend(HeaderSize + length, [areas[0].File]);
        return true;
    }

    private static void WriteCapabilities(Span<byte> reply, VfioRegionArea[] areas, VfioRegionType? type)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(reply[12..], RegionInfoSize);
        var at = RegionInfoSize;
        if (areas.Length > 0)
        {
            var next = at + SparseHeaderSize + (areas.Length * SparseAreaSize);
            BinaryPrimitives.WriteUInt16LittleEndian(reply[at..], CapSparseMmap);
            BinaryPrimitives.WriteUInt16LittleEndian(reply[(at + 2)..], 1);
            BinaryPrimitives.WriteUInt32LittleEndian(reply[(at + 4)..], type is null ? 0 : (uint)next);
            BinaryPrimitives.WriteUInt32LittleEndian(reply[(at + 8)..], (uint)areas.Length);
            for (var i = 0; i < areas.Length; i++)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(reply[(at + SparseHeaderSize + (i * SparseAreaSize))..], areas[i].Offset);
                BinaryPrimitives.WriteUInt64LittleEndian(reply[(at + SparseHeaderSize + (i * SparseAreaSize) + 8)..], areas[i].Size);
            }

            at = next;
        }

        if (type is not { } known)
            return;
        BinaryPrimitives.WriteUInt16LittleEndian(reply[at..], CapType);
        BinaryPrimitives.WriteUInt16LittleEndian(reply[(at + 2)..], 1);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[(at + 8)..], known.Type);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[(at + 12)..], known.Subtype);
    }

    private bool TryGetIoFds(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, IoFdsSize, out fault))
            return false;
        var region = message.Word(8);
        if (message.Word(4) != 0 || message.Word(12) != 0)
            return Refuse(Errno.EINVAL, "flags and count are 0 in a request", out fault);
        if (!_handle.TryGetRegionInfo(region, out _, out fault))
            return false;
        if (!message.WantsReply)
            return true;
        // A doorbell whose descriptor does not fit into the message is rung by REGION_WRITE.
        var most = Math.Min(_peer.MaxDescriptors, _options.MaxDescriptors);
        var doorbells = _handle.GetDoorbells(region).Take(most).ToArray();
        var size = IoFdsSize + (doorbells.Length * IoFdEntrySize);
        var whole = message.Word(0) >= (uint)size;
        if (whole && doorbells.Length > 0 && !TryAttachDoorbells(region, doorbells, out fault))
            return false;
        var length = whole ? size : IoFdsSize;
        if (!TryReply(message, length, out var reply))
            return true;
        reply.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(reply, (uint)size);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[8..], region);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[12..], (uint)doorbells.Length);
        if (!whole || doorbells.Length == 0)
            return Keep(length);
        var ports = IsPortRegion(region) ? IoEventFdPio : 0;
        for (var i = 0; i < doorbells.Length; i++)
        {
            var entry = reply.Slice(IoFdsSize + (i * IoFdEntrySize), IoFdEntrySize);
            BinaryPrimitives.WriteUInt64LittleEndian(entry, doorbells[i].Offset);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], (ulong)doorbells[i].Size);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)i);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[20..], IoFdTypeEventFd);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[24..], ports | (doorbells[i].Match is null ? 0 : IoEventFdDataMatch));
            BinaryPrimitives.WriteUInt64LittleEndian(entry[32..], doorbells[i].Match ?? 0);
        }

        _outbox.TrySend(HeaderSize + length, [.. _doorbells[region].Select(signal => signal.Descriptor)]);
        return true;
    }

    // Made when first asked for, and the same ones for who asks again.
    private bool TryAttachDoorbells(uint region, VfioDoorbell[] doorbells, out Fault fault)
    {
        fault = Fault.None;
        if (_doorbells.ContainsKey(region))
            return true;
        var signals = new List<EventFd>();
        foreach (var doorbell in doorbells)
        {
            var signal = new EventFd();
            signals.Add(signal);
            if (_handle.TryAttachDoorbell(region, doorbell, signal, out fault))
                continue;
            for (var i = 0; i < signals.Count; i++)
            {
                if (i < signals.Count - 1)
                    _handle.TryAttachDoorbell(region, doorbells[i], null, out _);
                signals[i].Dispose();
            }

            return false;
        }

        _doorbells.Add(region, signals);
        return true;
    }

    private bool IsPortRegion(uint region)
    {
        Span<byte> register = stackalloc byte[4];
        return _info.IsPci && region < BarRegions && _handle.TryRead(ConfigRegion, 0x10 + (4 * region), register, out _) && (register[0] & 1) != 0;
    }

    private bool TrySetIrqs(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, IrqSetSize, out fault))
            return false;
        var flags = (VfioIrqSetFlags)message.Word(4);
        uint index = message.Word(8), start = message.Word(12), count = message.Word(16);
        var bools = message.Payload[IrqSetSize..];
        if (bools.Length != (flags.HasFlag(VfioIrqSetFlags.DataBool) ? count : 0))
            return Refuse(Errno.EINVAL, "the message's size is not that of its data", out fault);
        var signals = message.DescriptorCount == 0 ? [] : new EventFd?[message.DescriptorCount];
        if (signals.Length > 0 && (!flags.HasFlag(VfioIrqSetFlags.DataEventFd) || (uint)signals.Length != count))
            return Refuse(Errno.EINVAL, "the number of descriptors is not that of the interrupts", out fault);
        try
        {
            for (var i = 0; i < signals.Length; i++)
            {
                var descriptor = message.TakeDescriptor();
                if (EventFd.TryAdopt(descriptor, out signals[i], out fault))
                    continue;
                descriptor.Dispose();
                return false;
            }

            var set = new VfioIrqSet { Flags = flags, Index = index, Start = start, Count = count, Bools = bools, EventFds = signals };
            return _handle.TrySetIrqs(set, out fault) && Reply(message, 0, out fault);
        }
        finally
        {
            foreach (var signal in signals)
                signal?.Dispose();
        }
    }

    private bool TryReset(in VfioUserMessage message, out Fault fault)
    {
        if (!message.Payload.IsEmpty)
            return Refuse(Errno.EINVAL, "the message is longer than its command", out fault);
        _remote?.Block(0, ulong.MaxValue);
        var done = _handle.TryReset(out fault);
        _remote?.Unblock();
        if (!done)
            return false;
        DropStream();
        return Reply(message, 0, out fault);
    }

    // Features.

    private bool TryFeature(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, FeatureSize, out fault))
            return false;
        var flags = message.Word(4);
        bool get = (flags & FeatureGet) != 0, set = (flags & FeatureSet) != 0, probe = (flags & FeatureProbe) != 0;
        if ((flags & ~(FeatureMask | FeatureGet | FeatureSet | FeatureProbe)) != 0 || (!get && !set && !probe) || (get && set && !probe))
            return Refuse(Errno.EINVAL, "the flags are unknown, or do not go together", out fault);
        var feature = flags & FeatureMask;
        var (canGet, canSet) = feature switch
        {
            FeatureMigration or FeatureMigDataSize => (_handle.Migration is not null, false),
            FeatureMigDeviceState => (_handle.Migration is not null, _handle.Migration is not null),
            FeatureLoggingStart or FeatureLoggingStop => (false, _handle.DmaLogging is not null),
            FeatureLoggingReport => (_handle.DmaLogging is not null, false),
            _ => (false, false),
        };
        if (!canGet && !canSet)
            return Refuse(Errno.ENOTTY, "the device has no such feature", out fault);
        if ((get && !canGet) || (set && !canSet))
            return Refuse(Errno.EINVAL, "the feature cannot be used that way", out fault);
        if (probe)
            return Reply(message, message.Payload.Length, out fault);
        return feature switch
        {
            FeatureMigration => TryGetNumber(message, (ulong)_handle.Migration!.Flags, out fault),
            FeatureMigDataSize => TryGetNumber(message, _handle.Migration!.DataSize, out fault),
            FeatureMigDeviceState when get => TryGetNumber(message, (uint)_handle.Migration!.State | (0xffff_ffffUL << 32), out fault),
            FeatureMigDeviceState => TrySetState(message, out fault),
            FeatureLoggingStart => TryStartLog(message, out fault),
            FeatureLoggingStop => StopLog(message, out fault),
            _ => TryReportLog(message, out fault),
        };
    }

    private bool TryGetNumber(in VfioUserMessage message, ulong value, out Fault fault)
    {
        const int Size = FeatureSize + sizeof(ulong);
        fault = Fault.None;
        if (message.Word(0) < Size)
            return Refuse(Errno.EINVAL, "argsz is smaller than the answer", out fault);
        if (!message.WantsReply || !TryReply(message, Size, out var reply))
            return true;
        BinaryPrimitives.WriteUInt32LittleEndian(reply, Size);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[4..], message.Word(4));
        BinaryPrimitives.WriteUInt64LittleEndian(reply[8..], value);
        return Keep(Size);
    }

    private bool TrySetState(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, FeatureSize + sizeof(ulong), out fault))
            return false;
        var migration = _handle.Migration!;
        var done = migration.TrySetState((VfioMigrationState)message.Word(FeatureSize), out var stream, out fault);
        // A session goes on within the saving states; a move out of them, or a failed one on the way, ends it.
        if (stream is not null || migration.State is not (VfioMigrationState.StopCopy or VfioMigrationState.PreCopy or
            VfioMigrationState.PreCopyP2P or VfioMigrationState.Resuming))
            DropStream();
        _stream = stream ?? _stream;
        return done && Reply(message, message.Payload.Length, out fault);
    }

    private void DropStream()
    {
        _stream?.Dispose();
        _stream = null;
        _unsent = [];
    }

    private bool TryStartLog(in VfioUserMessage message, out Fault fault)
    {
        const int Head = FeatureSize + LoggingStartSize;
        if (!TryCheckSize(message, Head, out fault))
            return false;
        var pageSize = message.Long(FeatureSize);
        var count = message.Word(FeatureSize + 8);
        if (count > (uint)(message.Payload.Length / 16) || message.Payload.Length < Head + ((int)count * 16))
            return Refuse(Errno.EINVAL, "the message is shorter than its ranges", out fault);
        var ranges = new IovaRange[Math.Max(count, 2)];
        for (var i = 0; i < count; i++)
            ranges[i] = new IovaRange(new Iova(message.Long(Head + (i * 16))), message.Long(Head + (i * 16) + 8));
        if (count == 0)
        {
            // No range says every address; the kernel's users may not say that. In two halves, because no number of 64 bits says how many those are.
            ranges[0] = new IovaRange(new Iova(0), 1UL << 63);
            ranges[1] = new IovaRange(new Iova(1UL << 63), 1UL << 63);
        }

        if (!_handle.DmaLogging!.TryStart(ref pageSize, ranges.AsSpan(0, count == 0 ? 2 : (int)count), out fault))
            return false;
        if (!message.WantsReply || !TryReply(message, message.Payload.Length, out var reply))
            return true;
        message.Payload.CopyTo(reply);
        BinaryPrimitives.WriteUInt64LittleEndian(reply[FeatureSize..], pageSize);
        return Keep(message.Payload.Length);
    }

    private bool StopLog(in VfioUserMessage message, out Fault fault)
    {
        _handle.DmaLogging!.Stop();
        return Reply(message, message.Payload.Length, out fault);
    }

    private bool TryReportLog(in VfioUserMessage message, out Fault fault)
    {
        const int Head = FeatureSize + LoggingReportSize;
        if (!TryCheckSize(message, Head, out fault))
            return false;
        ulong start = message.Long(FeatureSize), size = message.Long(FeatureSize + 8), pageSize = message.Long(FeatureSize + 16);
        if (pageSize < PageSize || !ulong.IsPow2(pageSize) || size == 0 || start % pageSize != 0)
            return Refuse(Errno.EINVAL, "the page size or the range is none that a log has", out fault);
        if (size - 1 > ulong.MaxValue - start)
            return Refuse(Errno.EOVERFLOW, "the range wraps around the end of the address space", out fault);
        var bytes = BitmapSize(size, pageSize);
        if (bytes > (ulong)_options.MaxDataTransfer || message.Word(0) < (ulong)Head + bytes)
            return Refuse(Errno.EINVAL, "the bitmap is larger than an answer may be", out fault);
        // What nobody hears of stays in the log.
        var range = new IovaRange(new Iova(start), size);
        if (!message.WantsReply)
            return _handle.DmaLogging!.CanReport(range, pageSize, out fault);
        if (!TryReply(message, Head + (int)bytes, out var reply))
            return true;
        message.Payload[..Head].CopyTo(reply);
        BinaryPrimitives.WriteUInt32LittleEndian(reply, (uint)(Head + (int)bytes));
        var bitmap = MemoryMarshal.Cast<byte, ulong>(reply[Head..]);
        bitmap.Clear();
        return _handle.DmaLogging!.TryReport(range, pageSize, bitmap, out fault) && Keep(Head + (int)bytes);
    }

    // Migration data.

    private bool TryReadMigration(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, MigrationDataSize, out fault))
            return false;
        var size = message.Word(4);
        if (size > (uint)_options.MaxDataTransfer || message.Word(0) < (ulong)MigrationDataSize + size)
            return Refuse(Errno.EINVAL, "more is asked for than one message may carry, or than argsz says", out fault);
        if (_stream is null)
            return Refuse(Errno.EINVAL, "no state of the device is being read", out fault);
        if (!message.WantsReply || !TryReply(message, MigrationDataSize + (int)size, out var reply))
            return true;
        var have = Math.Min(_unsent.Length, (int)size);
        _unsent.AsSpan(0, have).CopyTo(reply[MigrationDataSize..]);
        _unsent = have < _unsent.Length ? _unsent[have..] : [];
        // Less than asked for says that the stream is at its end, so a short read of the device's is not one of the client's.
        while (have < (int)size)
        {
            if (!_stream.TryRead(reply[(MigrationDataSize + have)..], out var count, out fault))
            {
                // Nothing more for now, while it runs still.
                if (fault.Errno == Errno.ENOMSG)
                    break;
                // An answer that is short would say that this is all. What was read goes with the next one.
                _unsent = reply.Slice(MigrationDataSize, have).ToArray();
                return false;
            }

            if (count == 0)
                break;
            have += count;
        }

        fault = Fault.None;
        var length = MigrationDataSize + have;
        BinaryPrimitives.WriteUInt32LittleEndian(reply, (uint)length);
        BinaryPrimitives.WriteUInt32LittleEndian(reply[4..], (uint)have);
        VfioUserMessage.WriteHeader(_outbox.Reserved, message.Id, message.Command, HeaderSize + length, TypeReply);
        return Keep(length);
    }

    private bool TryWriteMigration(in VfioUserMessage message, out Fault fault)
    {
        if (!TryCheckSize(message, MigrationDataSize, out fault))
            return false;
        var size = message.Word(4);
        if (size > (uint)_options.MaxDataTransfer || message.Payload.Length != MigrationDataSize + (int)size)
            return Refuse(Errno.EINVAL, "the message's size is not that of its data", out fault);
        if (_stream is null)
            return Refuse(Errno.EINVAL, "no state of the device is being written", out fault);
        return _stream.TryWrite(message.Payload[MigrationDataSize..], out fault) && Reply(message, 0, out fault);
    }
}
