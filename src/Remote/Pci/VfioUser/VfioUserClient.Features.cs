using System.Runtime.InteropServices;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>The device's features: its migration and its log of written pages.</summary>
public sealed partial class VfioUserClient
{
    /// <summary>What the device's migration can do.</summary>
    /// <param name="flags">What it can do.</param>
    /// <param name="fault">ENOTTY (EINVAL of some servers): it has none; else as for <see cref="TryRead"/>.</param>
    public bool TryGetMigrationFlags(out VfioMigrationFlags flags, out Fault fault)
    {
        var done = TryGetFeature(FeatureMigration, out var value, out fault);
        flags = (VfioMigrationFlags)value;
        return done;
    }

    /// <summary>The migration state that the device is in.</summary>
    /// <param name="state">The state.</param>
    /// <param name="fault">As for <see cref="TryGetMigrationFlags"/>.</param>
    public bool TryGetMigrationState(out VfioMigrationState state, out Fault fault)
    {
        var done = TryGetFeature(FeatureMigDeviceState, out var value, out fault);
        state = (VfioMigrationState)(uint)value;
        return done;
    }

    /// <summary>Moves the device to a migration state; returns when it is there.</summary>
    /// <param name="state">Where to.</param>
    /// <param name="fault">EINVAL: not possible from where it is; else as for <see cref="TryGetMigrationFlags"/>.</param>
    public bool TrySetMigrationState(VfioMigrationState state, out Fault fault)
    {
        Span<byte> request = stackalloc byte[FeatureStateSize];
        var head = Head(FeatureStateSize, FeatureSet | FeatureMigDeviceState);
        MemoryMarshal.Write(request, new VfioUserFeatureState { Head = head, State = (uint)state });
        return TryAsk(VfioUserCommand.DEVICE_FEATURE, request, out fault);
    }

    /// <summary>Bytes that a stop-and-copy would take now.</summary>
    /// <param name="size">Bytes.</param>
    /// <param name="fault">As for <see cref="TryGetMigrationFlags"/>.</param>
    public bool TryGetMigrationDataSize(out ulong size, out Fault fault) => TryGetFeature(FeatureMigDataSize, out size, out fault);

    /// <summary>Reads the device's state, while it is in a saving state.</summary>
    /// <param name="destination">Where to.</param>
    /// <param name="count">Bytes read; fewer than asked for at the end of the stream, or, while it still runs, of what there is for now.</param>
    /// <param name="fault">EINVAL: it is in no saving state; else as for <see cref="TryRead"/>.</param>
    public bool TryReadMigrationData(Span<byte> destination, out int count, out Fault fault)
    {
        count = 0;
        do
        {
            var size = Math.Min(destination.Length, _maxTransfer);
            var call = _channel.Rent();
            var request = call.Request(HeaderSize + MigrationDataSize);
            MemoryMarshal.Write(request[HeaderSize..], new VfioUserMigrationData { ArgSize = (uint)(MigrationDataSize + size), Size = (uint)size });
            var done = TryCall(call, VfioUserCommand.MIG_DATA_READ, request, default, out fault);
            var got = 0;
            // libvfio-user answers with all that was asked for; how much of it counts is in the answer.
            if (done && (call.Reply.Length < MigrationDataSize || call.Read<VfioUserMigrationData>().Size is var said &&
                (said > (uint)size || call.Reply.Length < MigrationDataSize + (int)said)))
                done = Refuse(Errno.EPROTO, "the answer has another size than it says", out fault);
            if (done)
            {
                got = (int)call.Read<VfioUserMigrationData>().Size;
                call.Reply.Slice(MigrationDataSize, got).CopyTo(destination);
            }

            _channel.Return(call);
            if (!done)
                return false;
            count += got;
            destination = destination[got..];
            if (got < size)
                return true;
        }
        while (!destination.IsEmpty);
        return true;
    }

    /// <summary>Writes a device's state, while it is resuming.</summary>
    /// <param name="source">The next bytes.</param>
    /// <param name="fault">EINVAL: it is not resuming, or that is no state of it; else as for <see cref="TryRead"/>.</param>
    public bool TryWriteMigrationData(ReadOnlySpan<byte> source, out Fault fault)
    {
        fault = Fault.None;
        while (!source.IsEmpty)
        {
            var size = Math.Min(source.Length, _maxTransfer);
            var call = _channel.Rent();
            var request = call.Request(HeaderSize + MigrationDataSize + size);
            MemoryMarshal.Write(request[HeaderSize..], new VfioUserMigrationData { ArgSize = (uint)(MigrationDataSize + size), Size = (uint)size });
            source[..size].CopyTo(request[(HeaderSize + MigrationDataSize)..]);
            var done = TryCall(call, VfioUserCommand.MIG_DATA_WRITE, request, default, out fault);
            _channel.Return(call);
            if (!done)
                return false;
            source = source[size..];
        }

        return true;
    }

    /// <summary>Starts to log the pages that the device writes.</summary>
    /// <param name="pageSize">The page size wanted; the one taken at return.</param>
    /// <param name="ranges">What is logged; none for all.</param>
    /// <param name="fault">EINVAL, E2BIG, EOVERFLOW; ENOTTY: it keeps no log; else as for <see cref="TryRead"/>.</param>
    public bool TryStartDmaLogging(ref ulong pageSize, ReadOnlySpan<IovaRange> ranges, out Fault fault)
    {
        var size = LoggingStartSize + (ranges.Length * LoggingRangeSize);
        var call = _channel.Rent();
        var request = call.Request(HeaderSize + size);
        var payload = request[HeaderSize..];
        var head = Head(size, FeatureSet | FeatureLoggingStart);
        MemoryMarshal.Write(payload, new VfioUserLoggingStart { Head = head, PageSize = pageSize, Count = (uint)ranges.Length });
        for (var i = 0; i < ranges.Length; i++)
        {
            var range = new VfioUserLoggingRange { Address = ranges[i].Start.Value, Size = ranges[i].Size };
            MemoryMarshal.Write(payload[(LoggingStartSize + (i * LoggingRangeSize))..], in range);
        }

        var done = TryCall(call, VfioUserCommand.DEVICE_FEATURE, request, default, out fault) &&
            (call.Reply.Length >= LoggingStartSize || Refuse(Errno.EPROTO, "the answer is shorter than what was asked for", out fault));
        if (done)
            pageSize = call.Read<VfioUserLoggingStart>().PageSize;
        _channel.Return(call);
        return done;
    }

    /// <summary>Stops the log.</summary>
    /// <param name="fault">ENOTTY: it keeps none; else as for <see cref="TryRead"/>.</param>
    public bool TryStopDmaLogging(out Fault fault)
    {
        Span<byte> request = stackalloc byte[FeatureSize];
        MemoryMarshal.Write(request, Head(FeatureSize, FeatureSet | FeatureLoggingStop));
        return TryAsk(VfioUserCommand.DEVICE_FEATURE, request, out fault);
    }

    /// <summary>Asks which pages the device wrote to since that was asked last.</summary>
    /// <param name="range">What is asked for, in whole pages.</param>
    /// <param name="pageSize">Bytes that one bit stands for.</param>
    /// <param name="bitmap">Bit n for page n; bits that are set stay set. As many words as the range needs.</param>
    /// <param name="fault">EINVAL: page size, alignment, or the log does not run; else as for <see cref="TryStopDmaLogging"/>.</param>
    public bool TryReportDmaLogging(IovaRange range, ulong pageSize, Span<ulong> bitmap, out Fault fault)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan((ulong)bitmap.Length * sizeof(ulong), BitmapSize(range.Size, pageSize), nameof(bitmap));
        // In pieces whose bitmap fits into an answer, each of whole words.
        var step = (ulong)((_maxTransfer - LoggingReportSize) / sizeof(ulong)) * 64 * pageSize;
        for (var at = 0UL; at < range.Size; at += step)
        {
            var size = Math.Min(step, range.Size - at);
            var bytes = (int)BitmapSize(size, pageSize);
            var call = _channel.Rent();
            var request = call.Request(HeaderSize + LoggingReportSize);
            MemoryMarshal.Write(request[HeaderSize..], new VfioUserLoggingReport
            {
                Head = Head(LoggingReportSize + bytes, FeatureGet | FeatureLoggingReport),
                Address = range.Start.Value + at,
                Size = size,
                PageSize = pageSize,
            });
            var done = TryCall(call, VfioUserCommand.DEVICE_FEATURE, request, default, out fault) &&
                (call.Reply.Length >= LoggingReportSize + bytes || Refuse(Errno.EPROTO, "the answer has no bitmap of that size", out fault));
            if (done)
                Merge(call.Reply.Slice(LoggingReportSize, bytes), bitmap[(int)(at / pageSize / 64)..]);
            _channel.Return(call);
            if (!done)
                return false;
            if (size < step)
                break;
        }

        fault = Fault.None;
        return true;
    }

    private static VfioUserFeature Head(int argsz, uint flags) => new() { ArgSize = (uint)argsz, Flags = flags };

    private bool TryGetFeature(uint feature, out ulong value, out Fault fault)
    {
        Span<byte> request = stackalloc byte[FeatureSize];
        MemoryMarshal.Write(request, Head(FeatureNumberSize, FeatureGet | feature));
        var done = TryAsk(VfioUserCommand.DEVICE_FEATURE, request, out VfioUserFeatureNumber answer, out fault);
        value = answer.Value;
        return done;
    }
}
