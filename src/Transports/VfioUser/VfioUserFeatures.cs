using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// The device's features as a client uses them: its log of written pages, and its migration with the state that is read or written. Used by the
/// session's thread.
/// </summary>
/// <param name="answers">Where the answers go.</param>
/// <param name="handle">The device.</param>
/// <param name="most">The most bytes of data in one message.</param>
internal sealed class VfioUserFeatures(VfioUserAnswers answers, VfioHandle handle, int most) : IDisposable
{
    private VfioMigrationStream? _stream;
    // What was read of the stream for an answer that could not be given.
    private byte[] _unsent = [];

    public void Dispose() => _stream?.Dispose();

    internal void DropStream()
    {
        _stream?.Dispose();
        _stream = null;
        _unsent = [];
    }

    internal bool TryUse(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, FeatureSize, out fault))
            return false;
        var flags = message.Read<VfioUserFeature>().Flags;
        bool get = (flags & FeatureGet) != 0, set = (flags & FeatureSet) != 0, probe = (flags & FeatureProbe) != 0;
        if ((flags & ~(FeatureMask | FeatureGet | FeatureSet | FeatureProbe)) != 0 || (!get && !set && !probe) || (get && set && !probe))
            return Refuse(Errno.EINVAL, "the flags are unknown, or do not go together", out fault);
        var feature = flags & FeatureMask;
        var (canGet, canSet) = feature switch
        {
            FeatureMigration or FeatureMigDataSize => (handle.Migration is not null, false),
            FeatureMigDeviceState => (handle.Migration is not null, handle.Migration is not null),
            FeatureLoggingStart or FeatureLoggingStop => (false, handle.DmaLogging is not null),
            FeatureLoggingReport => (handle.DmaLogging is not null, false),
            _ => (false, false),
        };
        if (!canGet && !canSet)
            return Refuse(Errno.ENOTTY, "the device has no such feature", out fault);
        if ((get && !canGet) || (set && !canSet))
            return Refuse(Errno.EINVAL, "the feature cannot be used that way", out fault);
        if (probe)
            return answers.Echo(message, message.Payload.Length, out fault);
        return feature switch
        {
            FeatureMigration => TryGetNumber(message, (ulong)handle.Migration!.Flags, out fault),
            FeatureMigDataSize => TryGetNumber(message, handle.Migration!.DataSize, out fault),
            FeatureMigDeviceState when get => TryGetState(message, out fault),
            FeatureMigDeviceState => TrySetState(message, out fault),
            FeatureLoggingStart => TryStartLog(message, out fault),
            FeatureLoggingStop => StopLog(message, out fault),
            _ => TryReportLog(message, out fault),
        };
    }

    internal bool TryReadMigration(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, MigrationDataSize, out fault))
            return false;
        var request = message.Read<VfioUserMigrationData>();
        if (request.Size > (uint)most || request.ArgSize < (ulong)MigrationDataSize + request.Size)
            return Refuse(Errno.EINVAL, "more is asked for than one message may carry, or than argsz says", out fault);
        if (_stream is null)
            return Refuse(Errno.EINVAL, "no state of the device is being read", out fault);
        var size = (int)request.Size;
        if (!message.WantsReply || !answers.TryBegin(message, MigrationDataSize + size, out var reply))
            return true;
        var have = Math.Min(_unsent.Length, size);
        _unsent.AsSpan(0, have).CopyTo(reply[MigrationDataSize..]);
        _unsent = have < _unsent.Length ? _unsent[have..] : [];
        // Less than asked for says that the stream is at its end, so a short read of the device's is not one of the client's.
        while (have < size)
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
        MemoryMarshal.Write(reply, new VfioUserMigrationData { ArgSize = (uint)length, Size = (uint)have });
        return answers.Keep(message, length);
    }

    internal bool TryWriteMigration(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, MigrationDataSize, out fault))
            return false;
        var size = message.Read<VfioUserMigrationData>().Size;
        if (size > (uint)most || message.Payload.Length != MigrationDataSize + (int)size)
            return Refuse(Errno.EINVAL, "the message's size is not that of its data", out fault);
        if (_stream is null)
            return Refuse(Errno.EINVAL, "no state of the device is being written", out fault);
        return _stream.TryWrite(message.Payload[MigrationDataSize..], out fault) && answers.Echo(message, 0, out fault);
    }

    private bool TryGetNumber(in VfioUserMessage message, ulong value, out Fault fault)
    {
        fault = Fault.None;
        var head = message.Read<VfioUserFeature>();
        if (head.ArgSize < FeatureNumberSize)
            return Refuse(Errno.EINVAL, "argsz is smaller than the answer", out fault);
        if (!message.WantsReply || !answers.TryBegin(message, FeatureNumberSize, out var reply))
            return true;
        head.ArgSize = FeatureNumberSize;
        MemoryMarshal.Write(reply, new VfioUserFeatureNumber { Head = head, Value = value });
        return answers.Keep(FeatureNumberSize);
    }

    private bool TryGetState(in VfioUserMessage message, out Fault fault)
    {
        fault = Fault.None;
        var head = message.Read<VfioUserFeature>();
        if (head.ArgSize < FeatureStateSize)
            return Refuse(Errno.EINVAL, "argsz is smaller than the answer", out fault);
        if (!message.WantsReply || !answers.TryBegin(message, FeatureStateSize, out var reply))
            return true;
        head.ArgSize = FeatureStateSize;
        MemoryMarshal.Write(reply, new VfioUserFeatureState { Head = head, State = (uint)handle.Migration!.State, DataDescriptor = -1 });
        return answers.Keep(FeatureStateSize);
    }

    private bool TrySetState(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, FeatureStateSize, out fault))
            return false;
        var migration = handle.Migration!;
        var wanted = (VfioMigrationState)message.Read<VfioUserFeatureState>().State;
        var done = migration.TrySetState(wanted, out var stream, out fault);
        // A session goes on within the saving states; a move out of them, or a failed one on the way, ends it.
        if (stream is not null || migration.State is not (VfioMigrationState.StopCopy or VfioMigrationState.PreCopy or
            VfioMigrationState.PreCopyP2P or VfioMigrationState.Resuming))
            DropStream();
        _stream = stream ?? _stream;
        return done && answers.Echo(message, message.Payload.Length, out fault);
    }

    private bool TryStartLog(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, LoggingStartSize, out fault))
            return false;
        var request = message.Read<VfioUserLoggingStart>();
        if (request.Count > (uint)(message.Payload.Length / LoggingRangeSize) ||
            message.Payload.Length < LoggingStartSize + ((int)request.Count * LoggingRangeSize))
            return Refuse(Errno.EINVAL, "the message is shorter than its ranges", out fault);
        var count = (int)request.Count;
        var ranges = new IovaRange[Math.Max(count, 2)];
        for (var i = 0; i < count; i++)
        {
            var range = message.Read<VfioUserLoggingRange>(LoggingStartSize + (i * LoggingRangeSize));
            ranges[i] = new IovaRange(new Iova(range.Address), range.Size);
        }

        if (count == 0)
        {
            // No range says every address; the kernel's users may not say that. In two halves, because no number of 64 bits says how many those are.
            ranges[0] = new IovaRange(new Iova(0), 1UL << 63);
            ranges[1] = new IovaRange(new Iova(1UL << 63), 1UL << 63);
        }

        if (!handle.DmaLogging!.TryStart(ref request.PageSize, ranges.AsSpan(0, count == 0 ? 2 : count), out fault))
            return false;
        if (!message.WantsReply || !answers.TryBegin(message, message.Payload.Length, out var reply))
            return true;
        message.Payload.CopyTo(reply);
        MemoryMarshal.Write(reply, in request);
        return answers.Keep(message.Payload.Length);
    }

    private bool StopLog(in VfioUserMessage message, out Fault fault)
    {
        handle.DmaLogging!.Stop();
        return answers.Echo(message, message.Payload.Length, out fault);
    }

    private bool TryReportLog(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, LoggingReportSize, out fault))
            return false;
        var request = message.Read<VfioUserLoggingReport>();
        if (request.PageSize < PageSize || !ulong.IsPow2(request.PageSize) || request.Size == 0 || request.Address % request.PageSize != 0)
            return Refuse(Errno.EINVAL, "the page size or the range is none that a log has", out fault);
        if (request.Size - 1 > ulong.MaxValue - request.Address)
            return Refuse(Errno.EOVERFLOW, "the range wraps around the end of the address space", out fault);
        var bytes = BitmapSize(request.Size, request.PageSize);
        if (bytes > (ulong)most || request.Head.ArgSize < LoggingReportSize + bytes)
            return Refuse(Errno.EINVAL, "the bitmap is larger than an answer may be", out fault);
        // What nobody hears of stays in the log.
        var range = new IovaRange(new Iova(request.Address), request.Size);
        if (!message.WantsReply)
            return handle.DmaLogging!.CanReport(range, request.PageSize, out fault);
        var size = LoggingReportSize + (int)bytes;
        if (!answers.TryBegin(message, size, out var reply))
            return true;
        request.Head.ArgSize = (uint)size;
        MemoryMarshal.Write(reply, in request);
        var bitmap = MemoryMarshal.Cast<byte, ulong>(reply[LoggingReportSize..]);
        bitmap.Clear();
        return handle.DmaLogging!.TryReport(range, request.PageSize, bitmap, out fault) && answers.Keep(size);
    }
}
