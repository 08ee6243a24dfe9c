using System.Buffers.Binary;

namespace Virtbus.Virtio;

// The state that moves with the device's: what a driver wrote and reads back.
public sealed partial class VirtioConfigRegisters
{
    // Selectors 4, 4 and 2, vector of the configuration 2, features 16, generation 1, reserved 3.
    internal const int SavedHeader = 32;
    internal const int SavedQueueSelectAt = 8;
    internal const int SavedConfigVectorAt = 10;
    internal const int SavedFeaturesAt = 12;
    // Three areas 24, size 2, vector 2, reserved 4.
    internal const int SavedQueue = 32;
    internal const int SavedSizeAt = 24;
    internal const int SavedVectorAt = 26;

    /// <summary>How many bytes <see cref="Save"/> writes.</summary>
    public int SavedSize => SavedHeader + (_queues.Length * SavedQueue);

    /// <summary>Writes what moves. The device stands still.</summary>
    /// <param name="to">Where to; <see cref="SavedSize"/> bytes.</param>
    public void Save(Span<byte> to)
    {
        to = to[..SavedSize];
        to.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(to, _deviceFeatureSelect);
        BinaryPrimitives.WriteUInt32LittleEndian(to[4..], _driverFeatureSelect);
        BinaryPrimitives.WriteUInt16LittleEndian(to[8..], _queueSelect);
        BinaryPrimitives.WriteUInt16LittleEndian(to[10..], _configVector);
        BinaryPrimitives.WriteUInt64LittleEndian(to[12..], _driverFeatures.Low);
        BinaryPrimitives.WriteUInt64LittleEndian(to[20..], _driverFeatures.High);
        to[28] = Generation();
        for (var i = 0; i < _queues.Length; i++)
        {
            var place = to.Slice(SavedHeader + (i * SavedQueue), SavedQueue);
            BinaryPrimitives.WriteUInt64LittleEndian(place, _queues[i].Descriptors);
            BinaryPrimitives.WriteUInt64LittleEndian(place[8..], _queues[i].Driver);
            BinaryPrimitives.WriteUInt64LittleEndian(place[16..], _queues[i].Device);
            BinaryPrimitives.WriteUInt16LittleEndian(place[24..], _queues[i].Size);
            BinaryPrimitives.WriteUInt16LittleEndian(place[26..], _queues[i].Vector);
        }
    }

    /// <summary>Whether bytes are what <see cref="Save"/> of such registers writes. They are not trusted.</summary>
    /// <param name="from">The bytes.</param>
    public bool IsSaved(ReadOnlySpan<byte> from)
    {
        if (from.Length != SavedSize || from[29..SavedHeader].ContainsAnyExcept((byte)0) || !IsVector(from[10..]))
            return false;
        for (var i = 0; i < _queues.Length; i++)
        {
            var place = from.Slice(SavedHeader + (i * SavedQueue), SavedQueue);
            if (!IsVector(place[26..]) || place[28..].ContainsAnyExcept((byte)0))
                return false;
        }

        return true;
    }

    /// <summary>Takes over what <see cref="Save"/> wrote, after the device took its own state over.</summary>
    /// <param name="from">Bytes of which <see cref="IsSaved"/> is true.</param>
    public void Restore(ReadOnlySpan<byte> from)
    {
        _deviceFeatureSelect = BinaryPrimitives.ReadUInt32LittleEndian(from);
        _driverFeatureSelect = BinaryPrimitives.ReadUInt32LittleEndian(from[4..]);
        _queueSelect = BinaryPrimitives.ReadUInt16LittleEndian(from[8..]);
        Volatile.Write(ref _configVector, BinaryPrimitives.ReadUInt16LittleEndian(from[10..]));
        _driverFeatures = new VirtioFeatures(BinaryPrimitives.ReadUInt64LittleEndian(from[12..]), BinaryPrimitives.ReadUInt64LittleEndian(from[20..]));
        // A change that the other one's driver was not told of comes as one of this device's.
        _generation = from[28];
        for (var i = 0; i < _queues.Length; i++)
        {
            var place = from.Slice(SavedHeader + (i * SavedQueue), SavedQueue);
            _queues[i].Descriptors = BinaryPrimitives.ReadUInt64LittleEndian(place);
            _queues[i].Driver = BinaryPrimitives.ReadUInt64LittleEndian(place[8..]);
            _queues[i].Device = BinaryPrimitives.ReadUInt64LittleEndian(place[16..]);
            _queues[i].Size = BinaryPrimitives.ReadUInt16LittleEndian(place[24..]);
            _queues[i].Vector = BinaryPrimitives.ReadUInt16LittleEndian(place[26..]);
            Volatile.Write(ref _queues[i].Fault, null);
        }
    }

    /// <summary>Tells the driver of used buffers in all queues that are enabled, whether there are any or not; of a suspended device when it goes on.</summary>
    public void RaiseAll()
    {
        _owesInterrupts = _device.IsSuspended;
        if (_owesInterrupts)
            return;
        for (var i = 0; i < _queues.Length; i++)
        {
            if (_device.IsQueueReady(i))
                _host.RaiseQueue(_queues[i].Vector);
        }
    }

    private bool IsVector(ReadOnlySpan<byte> from) =>
        BinaryPrimitives.ReadUInt16LittleEndian(from) is var vector && (vector == VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR || vector < _host.VectorLimit);
}
