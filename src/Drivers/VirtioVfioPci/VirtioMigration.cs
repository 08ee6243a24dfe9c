using Virtbus.Buses.Pci;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Virtio.Admin;
using static Virtbus.Platform.VfioMigrationState;

namespace Virtbus.Drivers.VirtioVfioPci;

/// <summary>
/// The migration of one virtual function by the parts of its state (VIRTIO 1.4, 2.14), which its physical function reads and sets. The stream is Linux's:
/// records, the one with tag 0 has all parts.
/// </summary>
internal sealed class VirtioMigration : IVfioMigrationArcs
{
    /// <summary>The most bytes that parts can have, on the way out and in: one command has them, behind the header of their object.</summary>
    internal const int MaxParts = (1 << 20) - ResourceObject.Size;

    private const uint DeviceDataTag = 0;

    private readonly PciDevice _device;
    private readonly VfioMigration _migration;
    private readonly VfioRecordWriter _writer = new();
    private readonly VfioRecordReader _reader = new(MaxParts);
    // It was told to stand still, whatever became of that, and has not gone on since. Under the lock of the states: a reset may come past the user, in the middle
    // of a step.
    private bool _mayStandStill;
    private uint? _set;
    private bool _isSpoiled;

    public VirtioMigration(PciDevice device)
    {
        _device = device;
        _migration = new VfioMigration(this);
    }

    /// <summary>What VFIO calls.</summary>
    public IVfioMigrationOps Ops => _migration;

    /// <inheritdoc/>
    public VfioMigrationFlags Flags => VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P;

    /// <inheritdoc/>
    public ulong DataSize
    {
        get
        {
            if (!VirtioPciAdmin.TryDevicePartsCreate(_device, ResourceObject.PartsGet, out var id, out _))
                return 0;
            var isKnown = VirtioPciAdmin.TryDevicePartsSize(_device, id, out var bytes, out _);
            VirtioPciAdmin.TryDevicePartsDestroy(_device, id, out _);
            return isKnown ? VfioRecordWriter.HeaderSize + (ulong)bytes : 0;
        }
    }

    /// <summary>The function was reset. The standard does not say that one which stood still goes on by that, so it is told to.</summary>
    public void Reset() => _migration.Reset(GoOn);

    /// <inheritdoc/>
    public bool TryMove(VfioMigrationState from, VfioMigrationState to, out Fault fault)
    {
        fault = Fault.None;
        switch (from, to)
        {
            // One that stops leaves others' memory alone as well, so there is no more to do for STOP.
            case (Running, RunningP2P):
                return TrySetMode(stopped: true, out fault);
            case (RunningP2P, Running):
                return TrySetMode(stopped: false, out fault);
            case (Stop, StopCopy):
                return TrySave(out fault);
            case (Stop, Resuming):
                if (!VirtioPciAdmin.TryDevicePartsCreate(_device, ResourceObject.PartsSet, out var id, out fault))
                    return false;
                _set = id;
                return true;
            case (Resuming, Stop) when _isSpoiled || !_reader.IsBetweenRecords:
                // It may have a part of a state. A reset takes that from it.
                return Refuse(Errno.EINVAL, "the migration data was refused, or ends in the middle; a reset is the way back", out fault);
            default:
                return true;
        }
    }

    /// <inheritdoc/>
    public bool TryRead(Span<byte> destination, out int count, out Fault fault)
    {
        fault = Fault.None;
        count = _writer.Read(destination);
        return true;
    }

    /// <inheritdoc/>
    public bool TryWrite(ReadOnlySpan<byte> source, out Fault fault)
    {
        if (_isSpoiled)
            return Refuse(Errno.EINVAL, "the migration data before was refused", out fault);
        _isSpoiled = !_reader.TryWrite(source, Receive, out fault);
        return !_isSpoiled;
    }

    /// <inheritdoc/>
    public void GetPreCopyInfo(out ulong initialBytes, out ulong dirtyBytes) => initialBytes = dirtyBytes = 0;

    /// <inheritdoc/>
    public void EndSession()
    {
        _writer.Clear();
        _reader.Clear();
        _isSpoiled = false;
        if (_set is not { } id)
            return;
        _set = null;
        VirtioPciAdmin.TryDevicePartsDestroy(_device, id, out _);
    }

    // Where the physical function can't say it now, it is being reset itself, and its virtual ones are new.
    private void GoOn()
    {
        if (_mayStandStill)
            _mayStandStill = !VirtioPciAdmin.TryModeSet(_device, stopped: false, out _);
    }

    private bool TrySetMode(bool stopped, out Fault fault)
    {
        _mayStandStill |= stopped;
        if (!VirtioPciAdmin.TryModeSet(_device, stopped, out fault))
            return false;
        _mayStandStill = stopped;
        return true;
    }

    private bool TrySave(out Fault fault)
    {
        if (!VirtioPciAdmin.TryDevicePartsCreate(_device, ResourceObject.PartsGet, out var id, out fault))
            return false;
        try
        {
            if (!VirtioPciAdmin.TryDevicePartsSize(_device, id, out var size, out fault))
                return false;
            if (size == 0)
                return Refuse(Errno.EINVAL, "the device has no state", out fault);
            if (size > MaxParts)
                return Refuse(Errno.ENOMEM, "the device's state is larger than any that can be moved", out fault);
            var parts = new byte[size];
            if (!VirtioPciAdmin.TryDevicePartsGet(_device, id, parts, out var count, out fault))
                return false;
            if (count == 0)
                return Refuse(Errno.EINVAL, "the device gave no part of its state", out fault);
            _writer.Append(DeviceDataTag, parts.AsMemory(0, count));
            return true;
        }
        finally
        {
            // There are few, for all virtual functions.
            VirtioPciAdmin.TryDevicePartsDestroy(_device, id, out _);
        }
    }

    private bool Receive(uint tag, bool isOptional, byte[] payload, out Fault fault)
    {
        fault = Fault.None;
        if (tag == DeviceDataTag)
            return VirtioPciAdmin.TryDevicePartsSet(_device, _set!.Value, payload, out fault);
        return isOptional || Refuse(Errno.EOPNOTSUPP, "the migration data has a record that is not known here and may not be left out", out fault);
    }

    private static bool Refuse(Errno errno, string why, out Fault fault)
    {
        fault = new Fault(errno, why);
        return false;
    }
}
