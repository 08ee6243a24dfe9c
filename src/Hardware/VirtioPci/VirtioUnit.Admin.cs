using System.Buffers.Binary;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using static Virtbus.Hardware.VirtioPci.VirtioFunctionLayout;

namespace Virtbus.Hardware.VirtioPci;

// What commands of the owner's administration queue do here.
internal sealed partial class VirtioUnit
{
    // As long as a command waits for an access or a reset that is under way; then it is to be tried again.
    private static readonly TimeSpan CommandPatience = TimeSpan.FromSeconds(1);

    /// <summary>Where a legacy driver's notifications are taken.</summary>
    internal static LegacyNotifyInfo NotifyInfo => new(LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM, RegisterBar, LegacyNotifyPlace);

    internal AdminAnswer ReadLegacy(bool isConfig, int offset, Span<byte> destination)
    {
        if (!TryBeginCommand())
            return AdminAnswer.TryAgain;
        try
        {
            if (_legacy is null || !_legacy.IsOneField(isConfig, offset, destination.Length))
                return AdminAnswer.InvalidField;
            destination.Clear();
            _legacy.Read(isConfig ? _legacy.ConfigOffset + offset : offset, destination);
        }
        finally
        {
            EndCommand();
        }

        return AdminAnswer.Ok;
    }

    internal AdminAnswer WriteLegacy(bool isConfig, int offset, ReadOnlySpan<byte> source)
    {
        if (!TryBeginCommand())
            return AdminAnswer.TryAgain;
        try
        {
            if (_legacy is null || !_legacy.IsOneField(isConfig, offset, source.Length))
                return AdminAnswer.InvalidField;
            Span<byte> value = stackalloc byte[sizeof(ulong)];
            value.Clear();
            source.CopyTo(value);
            _legacy.Write(isConfig ? _legacy.ConfigOffset + offset : offset, source, BinaryPrimitives.ReadUInt64LittleEndian(value));
        }
        finally
        {
            EndCommand();
        }

        return AdminAnswer.Ok;
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

    private void EndCommand()
    {
        _access.Exit();
        _port.ShowLine();
    }
}
