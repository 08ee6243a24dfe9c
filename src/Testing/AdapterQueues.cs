using System.Buffers.Binary;
using Virtbus.Hardware.Adapter;

namespace Virtbus.Testing;

/// <summary>A queue set of an adapter, driven by <see cref="AdapterDriver"/>: index block, two rings of 16 descriptors, buffers of 2 KiB.</summary>
public sealed class AdapterQueues
{
    /// <summary>Log2 of the number of descriptors of each ring.</summary>
    public const int Log = 4;

    private const int Depth = 1 << Log;
    private const int BufferSize = 2048;

    private readonly AdapterDriver _driver;
    private uint _transmitted;
    private uint _posted;
    private uint _received;

    /// <summary>The driver's side of a queue set; makes nothing.</summary>
    /// <param name="driver">The driver.</param>
    /// <param name="start">Where its memory begins: 128 KiB.</param>
    /// <param name="set">Its number.</param>
    public AdapterQueues(AdapterDriver driver, ulong start, int set)
    {
        ArgumentNullException.ThrowIfNull(driver);
        _driver = driver;
        Start = start;
        Set = set;
    }

    /// <summary>Where its memory begins, with the index block.</summary>
    public ulong Start { get; }

    /// <summary>Its number.</summary>
    public int Set { get; }

    /// <summary>Where the descriptors of frames to send are.</summary>
    public ulong TransmitRing => Start + 0x100;

    /// <summary>Where the descriptors of buffers for frames that come are.</summary>
    public ulong ReceiveRing => Start + 0x300;

    /// <summary>The arguments of <see cref="AdapterOpcode.CreateQueueSet"/>.</summary>
    public ulong[] Arguments => [TransmitRing, ReceiveRing, Start, Log | (Log << 8) | ((ulong)(Set + 1) << 16)];

    /// <summary>Its vector.</summary>
    public uint Vector => (uint)Set + 1;

    /// <summary>How many descriptors the adapter has sent.</summary>
    public uint TransmitConsumer => _driver.Word(Start + 32);

    /// <summary>How many frames had no buffer.</summary>
    public uint Dropped => _driver.Word(Start + 40);

    /// <summary>Why it stopped; 0 when it did not.</summary>
    public uint Error => _driver.Word(Start + 44);

    /// <summary>Where the frame of a descriptor is that is sent.</summary>
    /// <param name="index">The descriptor's number, from 0 on without end.</param>
    public ulong TransmitBuffer(uint index) => Start + 0x1000 + ((index % Depth) * BufferSize);

    /// <summary>Where the frame of a descriptor is that comes.</summary>
    /// <param name="index">The descriptor's number, from 0 on without end.</param>
    public ulong ReceiveBuffer(uint index) => Start + 0x10000 + ((index % Depth) * BufferSize);

    /// <summary>Gives the adapter buffers.</summary>
    /// <param name="count">How many.</param>
    /// <param name="size">Bytes of each.</param>
    public void Post(int count, uint size = BufferSize)
    {
        for (var i = 0; i < count; i++)
        {
            Descriptor(ReceiveRing, _posted, ReceiveBuffer(_posted), size, 0);
            _posted++;
        }
        _driver.SetWord(Start + QueueSet.ReceiveProducerOffset, _posted);
    }

    /// <summary>Puts a descriptor into the transmit ring; <see cref="Publish"/> shows it.</summary>
    /// <param name="address">Where the bytes are.</param>
    /// <param name="length">How many.</param>
    /// <param name="flags">Bits of the descriptor.</param>
    public void Add(ulong address, uint length, uint flags = 0) => Descriptor(TransmitRing, _transmitted++, address, length, flags);

    /// <summary>Shows the adapter what was added.</summary>
    /// <param name="producer">How many there are; as many as were added when left out.</param>
    public void Publish(uint? producer = null) => _driver.SetWord(Start + QueueSet.TransmitProducerOffset, producer ?? _transmitted);

    /// <summary>Sends a frame, in parts when <paramref name="part"/> says so.</summary>
    /// <param name="frame">The frame.</param>
    /// <param name="part">Bytes of a descriptor at most.</param>
    /// <param name="flags">Bits of its last descriptor.</param>
    public void Send(ReadOnlySpan<byte> frame, int part = BufferSize, uint flags = 0)
    {
        while (!frame.IsEmpty)
        {
            var piece = frame[..Math.Min(part, frame.Length)];
            frame = frame[piece.Length..];
            _driver.WriteMemory(TransmitBuffer(_transmitted), piece);
            Add(TransmitBuffer(_transmitted), (uint)piece.Length, frame.IsEmpty ? flags : QueueSet.FlagMore);
        }
        Publish();
        _driver.RingTransmit(Set);
    }

    /// <summary>The next frame, waited for, and how many buffers it took.</summary>
    public (byte[] Frame, int Buffers) Receive()
    {
        Deadline.Until(() => _driver.Word(Start + 36) != _received, $"a frame on queue set {Set}");
        var frame = new List<byte>();
        for (var buffers = 1; ; buffers++)
        {
            var descriptor = _driver.ReadMemory(ReceiveRing + ((_received % Depth) * 16), 16);
            frame.AddRange(_driver.ReadMemory(ReceiveBuffer(_received), BinaryPrimitives.ReadInt32LittleEndian(descriptor.AsSpan(8))));
            _received++;
            if ((BinaryPrimitives.ReadUInt32LittleEndian(descriptor.AsSpan(12)) & QueueSet.FlagMore) == 0)
                return ([.. frame], buffers);
        }
    }

    private void Descriptor(ulong ring, uint index, ulong address, uint length, uint flags)
    {
        var bytes = new byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, address);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(8), length);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(12), flags);
        _driver.WriteMemory(ring + ((index % Depth) * 16), bytes);
    }
}
