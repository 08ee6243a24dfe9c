using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Drivers.Nic;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Platform.VfioMigrationState;

namespace Virtbus.Drivers.MerlinVfioPci;

/// <summary>
/// The migration of one virtual function. Its stream: an identity, images of the state (each in sections, as the adapter gives it; the last one
/// counts), an end. While pre-copying, the
/// identity goes over, so that a target which does not fit says so early, and images where the adapter gives any of a running function.
/// </summary>
internal sealed class MerlinMigration : IVfioMigrationArcs
{
    private const uint IdentityTag = 1;
    private const uint ImageTag = 2;
    private const uint EndTag = 3;
    // 2: images are states in sections. Those of version 1 were not, and no adapter reads them any more.
    private const uint StreamVersion = 2;
    private const int IdentitySize = 12;
    private const int MaxImage = 1 << 20;

    private readonly INicMigration _channel;
    private readonly uint _function;
    private readonly byte[] _identity;
    private readonly VfioRecordWriter _writer = new();
    private readonly VfioRecordReader _reader = new(MaxImage);
    private VfioMigration? _migration;
    private ulong _initialLeft;
    private ulong _imageGeneration;
    private ulong _imageSize = 4096;
    private byte[]? _loaded;
    private bool _hasIdentity;
    private bool _hasEnd;
    private bool _hasImage;

    private MerlinMigration(PciDevice device, INicMigration channel)
    {
        _channel = channel;
        if (!channel.TryGetFunctionId(device, out _function))
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is no function of the adapter that is to move it.");
        _identity = new byte[IdentitySize];
        BinaryPrimitives.WriteUInt32LittleEndian(_identity, StreamVersion);
        BinaryPrimitives.WriteUInt16LittleEndian(_identity.AsSpan(4), device.VendorId);
        BinaryPrimitives.WriteUInt16LittleEndian(_identity.AsSpan(6), device.DeviceId);
        BinaryPrimitives.WriteUInt16LittleEndian(_identity.AsSpan(8), device.SubsystemVendorId);
        BinaryPrimitives.WriteUInt16LittleEndian(_identity.AsSpan(10), device.SubsystemId);
    }

    /// <inheritdoc/>
    public VfioMigrationFlags Flags => VfioMigrationFlags.StopCopy | VfioMigrationFlags.P2P | VfioMigrationFlags.PreCopy;

    /// <inheritdoc/>
    public ulong DataSize => (3 * VfioRecordWriter.HeaderSize) + IdentitySize + _imageSize;

    public static VfioMigration Create(PciDevice device, INicMigration channel)
    {
        var arcs = new MerlinMigration(device, channel);
        return arcs._migration = new VfioMigration(arcs);
    }

    /// <inheritdoc/>
    public bool TryMove(VfioMigrationState from, VfioMigrationState to, out Fault fault)
    {
        fault = Fault.None;
        switch (from, to)
        {
            case (Running, RunningP2P) or (PreCopy, PreCopyP2P) or (Stop, RunningP2P):
                return _channel.TrySuspend(_function, p2pOnly: true, out fault);
            case (RunningP2P, Running) or (PreCopyP2P, PreCopy):
                return _channel.TryResume(_function, out fault);
            case (RunningP2P, Stop):
                return _channel.TrySuspend(_function, p2pOnly: false, out fault);
            case (PreCopyP2P, StopCopy):
                return TryStopAndSave(out fault);
            case (Stop, StopCopy):
                BeginSaving();
                if (TrySaveFinal(out fault))
                    return true;
                _writer.Clear();
                return false;
            case (Running, PreCopy) or (RunningP2P, PreCopyP2P):
                BeginSaving();
                TrySaveRunning();
                _initialLeft = _writer.Pending;
                return true;
            case (Resuming, Stop):
                return TryLoad(out fault);
            default:
                // The ways back, and the beginning of a load, ask nothing of the adapter.
                return true;
        }
    }

    /// <inheritdoc/>
    public bool TryRead(Span<byte> destination, out int count, out Fault fault)
    {
        fault = Fault.None;
        if (_writer.Pending == 0 && _migration!.State is PreCopy or PreCopyP2P)
            TrySaveRunning();
        count = _writer.Read(destination);
        _initialLeft -= Math.Min(_initialLeft, (ulong)count);
        return true;
    }

    /// <inheritdoc/>
    public bool TryWrite(ReadOnlySpan<byte> source, out Fault fault) => _reader.TryWrite(source, Receive, out fault);

    /// <inheritdoc/>
    public void GetPreCopyInfo(out ulong initialBytes, out ulong dirtyBytes)
    {
        initialBytes = _initialLeft;
        dirtyBytes = _writer.Pending - _initialLeft;
        if (_hasImage && _channel.StateGeneration(_function) != _imageGeneration)
            dirtyBytes += VfioRecordWriter.HeaderSize + _imageSize;
    }

    /// <inheritdoc/>
    public void EndSession()
    {
        _writer.Clear();
        _reader.Clear();
        _initialLeft = 0;
        _loaded = null;
        _hasIdentity = _hasEnd = _hasImage = false;
    }

    private void BeginSaving() => _writer.Append(IdentityTag, _identity);

    private bool TryStopAndSave(out Fault fault)
    {
        if (!_channel.TrySuspend(_function, p2pOnly: false, out fault))
            return false;
        if (TrySaveFinal(out fault))
            return true;
        // It stays where it is, so it must do there what it did.
        if (!_channel.TrySuspend(_function, p2pOnly: true, out _))
            _migration!.Fail();
        return false;
    }

    // An image counts when nothing changed while it was made: then it need not go over again when the function stands still.
    private void TrySaveRunning()
    {
        var generation = _channel.StateGeneration(_function);
        if (_hasImage && generation == _imageGeneration)
            return;
        if (!_channel.TrySaveState(_function, out var state, out _))
            return;
        Append(state, generation);
    }

    private bool TrySaveFinal(out Fault fault)
    {
        fault = Fault.None;
        var generation = _channel.StateGeneration(_function);
        if (!_hasImage || generation != _imageGeneration)
        {
            if (!_channel.TrySaveState(_function, out var state, out fault))
                return false;
            Append(state, generation);
        }
        _writer.Append(EndTag, default);
        return true;
    }

    private void Append(byte[] state, ulong generation)
    {
        _writer.Append(ImageTag, state);
        _imageSize = (ulong)state.Length;
        _imageGeneration = generation;
        _hasImage = true;
    }

    private bool TryLoad(out Fault fault)
    {
        fault = Fault.None;
        // A resume that was given nothing is one that was called off.
        if (!_hasIdentity && _reader.IsBetweenRecords)
            return true;
        return _hasEnd && _reader.IsBetweenRecords
            ? _channel.TryLoadState(_function, _loaded, out fault)
            : Refuse("the migration data ends in the middle", out fault);
    }

    private bool Receive(uint tag, bool isOptional, byte[] payload, out Fault fault)
    {
        fault = Fault.None;
        if (_hasEnd)
            return Refuse("the migration data goes on behind its end", out fault);
        switch (tag)
        {
            case IdentityTag:
                if (payload.Length >= sizeof(uint) && BinaryPrimitives.ReadUInt32LittleEndian(payload) is var version && version != StreamVersion)
                    return Refuse($"the migration data is of version {version}; version {StreamVersion} is read", out fault);
                _hasIdentity = payload.AsSpan().SequenceEqual(_identity);
                return _hasIdentity || Refuse("the migration data is of another kind of function", out fault);
            case ImageTag when _hasIdentity:
                _loaded = payload;
                return true;
            case EndTag when _loaded is not null:
                _hasEnd = true;
                return true;
            default:
                return isOptional || Refuse("the migration data has an unknown record, or one in the wrong place", out fault);
        }
    }

    private static bool Refuse(string why, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, why);
        return false;
    }
}
