using System.Buffers;
using System.Buffers.Binary;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using static Virtbus.Hardware.VirtioPci.VirtioFunctionLayout;

namespace Virtbus.Hardware.VirtioPci;

// What commands of the owner's administration queue do here.
internal sealed partial class VirtioUnit
{
    private const int MostState = 4 << 20;
    // In the section of the registers, behind the ISR.
    private const int RegistersAt = 1;

    /// <summary>
    /// As long as a command waits for an access, a reset or a peer at a time; then it is to be tried again. All functions share one queue, and a driver does not wait
    /// long for an answer: as many commands as it has, each about a function whose peer answers nothing, are less than that.
    /// </summary>
    internal static readonly TimeSpan CommandPatience = TimeSpan.FromMilliseconds(50);

    /// <summary>Where a legacy driver's notifications are taken.</summary>
    internal static LegacyNotifyInfo NotifyInfo => new(LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM, RegisterBar, LegacyNotifyPlace);

    internal AdminAnswer ReadLegacy(bool isConfig, int offset, Span<byte> destination)
    {
        if (!TryBeginCommand())
            return AdminAnswer.TryAgain;
        try
        {
            return _legacy is not null && _legacy.TryReadField(isConfig, offset, destination) ? AdminAnswer.Ok : AdminAnswer.InvalidField;
        }
        finally
        {
            EndCommand();
        }
    }

    internal AdminAnswer WriteLegacy(bool isConfig, int offset, ReadOnlySpan<byte> source)
    {
        if (!TryBeginCommand())
            return AdminAnswer.TryAgain;
        try
        {
            return _legacy is not null && _legacy.TryWriteField(isConfig, offset, source) ? AdminAnswer.Ok : AdminAnswer.InvalidField;
        }
        finally
        {
            EndCommand();
        }
    }

    internal AdminAnswer SetMode(bool isStopped)
    {
        if (!_standstill.TryEnter(CommandPatience))
            return AdminAnswer.TryAgain;
        try
        {
            if (!IsSettled())
                return AdminAnswer.TryAgain;
            // The accesses go on meanwhile: one of them may be what a queue waits for.
            if (isStopped && !_device.TryPause(CommandPatience, out _))
                return AdminAnswer.TryAgain;
            if (_isStopped == isStopped)
                return AdminAnswer.Ok;
            _isStopped = isStopped;
            GoOn();
            return AdminAnswer.Ok;
        }
        finally
        {
            _standstill.Exit();
        }
    }

    internal AdminAnswer GetParts(IBufferWriter<byte> parts)
    {
        if (!_standstill.TryEnter(CommandPatience))
            return AdminAnswer.TryAgain;
        try
        {
            if (!IsSettled() || !_device.TryPause(CommandPatience, out _))
                return AdminAnswer.TryAgain;
            try
            {
                return GetPartsAtRest(parts);
            }
            finally
            {
                GoOn();
            }
        }
        finally
        {
            _standstill.Exit();
        }
    }

    internal AdminAnswer SetParts(ReadOnlySpan<byte> parts)
    {
        if (!_standstill.TryEnter(CommandPatience))
            return AdminAnswer.TryAgain;
        try
        {
            if (!TryBeginCommand())
                return AdminAnswer.TryAgain;
            try
            {
                return !_isStopped ? Busy : TrySetParts(parts) ? AdminAnswer.Ok : AdminAnswer.InvalidField;
            }
            finally
            {
                EndCommand();
            }
        }
        finally
        {
            _standstill.Exit();
        }
    }

    private static AdminAnswer Busy => new(AdminStatus.VIRTIO_ADMIN_STATUS_EBUSY, AdminQualifier.VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND);

    private AdminAnswer GetPartsAtRest(IBufferWriter<byte> parts)
    {
        if (!TryBeginCommand())
            return AdminAnswer.TryAgain;
        try
        {
            var state = new StateWriter();
            // A model that can't be moved has no parts.
            if (!TrySave(state, out _))
                return AdminAnswer.Invalid(AdminQualifier.VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND);
            _registers.WriteParts(parts);
            var whole = state.ToArray();
            new DevicePart(DevicePart.WholeState, 0, 0, (uint)whole.Length).Write(parts.GetSpan(DevicePart.Size));
            parts.Advance(DevicePart.Size);
            parts.Write(whole);
            return AdminAnswer.Ok;
        }
        finally
        {
            EndCommand();
        }
    }

    // The whole first, whichever its place, and what the others say of it.
    private bool TrySetParts(ReadOnlySpan<byte> parts)
    {
        byte[]? whole = null;
        var rest = parts;
        while (DevicePart.TryTake(ref rest, out var part, out var value))
        {
            if (part is { Type: DevicePart.WholeState, Selector: 0 })
                whole = value.ToArray();
        }

        // A driver fills its command up to whole words of 64 bits (2.13).
        if (rest.Length >= sizeof(ulong) || rest.ContainsAnyExcept((byte)0))
            return false;
        if (whole is null)
        {
            var own = new StateWriter();
            if (!TrySave(own, out _))
                return false;
            whole = own.ToArray();
        }

        if (!StateReader.TryRead(whole, MostState, out var reader, out _) || !DevicePartState.TryBegin(reader, _registers, Section, RegistersAt, out var state, out _))
            return false;
        while (DevicePart.TryTake(ref parts, out var part, out var value))
        {
            if (part is not { Type: DevicePart.WholeState, Selector: 0 } && !state!.TrySet(part, value, out _))
                return false;
        }

        return StateReader.TryRead(state!.ToArray(), MostState, out reader, out _) && TryRestore(reader, out _);
    }

    // A function that is reset begins anew, whoever stopped it.
    private void EndStop()
    {
        lock (_standstill)
        {
            if (!_isStopped)
                return;
            _isStopped = false;
            GoOn();
        }
    }

    // While the driver is known to be ready it takes no turn with the registers.
    private void NotifyLegacy(ReadOnlySpan<byte> source)
    {
        if (_legacy is null || source.Length != sizeof(ushort))
            return;
        var queue = BinaryPrimitives.ReadUInt16LittleEndian(source);
        if (_legacy.IsRunning)
        {
            if (queue < _legacy.Pages.Length)
                _device.KickQueue(queue);
            return;
        }

        lock (_access)
        {
            if (!_disposed)
                _legacy.Write(VirtioLegacyConfig.VIRTIO_PCI_QUEUE_NOTIFY, source, queue);
        }

        _port.ShowLine();
    }

    // As the write would, by an eventfd that no queue listens to.
    private void NotifyOld(VirtioDoorbellWatch watch, int queue)
    {
        Span<byte> value = stackalloc byte[sizeof(ushort)];
        BinaryPrimitives.WriteUInt16LittleEndian(value, (ushort)queue);
        lock (_access)
        {
            if (_disposed || !_doorbells.IsCurrent(watch))
                return;
            _legacy!.Write(VirtioLegacyConfig.VIRTIO_PCI_QUEUE_NOTIFY, value, (ulong)queue);
        }

        _port.ShowLine();
    }

    // A reset that waits for a peer, and a function that goes, keep nobody waiting.
    private bool TryBeginCommand()
    {
        if (!_access.TryEnter(CommandPatience))
            return false;
        if (!_disposed && !_device.IsResetting)
            return true;
        _access.Exit();
        return false;
    }

    private bool IsSettled()
    {
        if (!TryBeginCommand())
            return false;
        EndCommand();
        return true;
    }

    private void EndCommand()
    {
        _access.Exit();
        _port.ShowLine();
    }
}
