using System.Buffers.Binary;
using Virtbus.Hardware.Adapter;
using Xunit;

namespace Virtbus.Tests;

/// <summary>A queue set driven by a test: index block, two rings of 16 descriptors, buffers of 2 KiB.</summary>
internal sealed class RigQueues(AdapterRig rig, ulong start, int set)
{
    public const int Log = 4;
    private const int Depth = 1 << Log;
    private const int BufferSize = 2048;
    private uint _transmitted;
    private uint _posted;
    private uint _received;

    public ulong Start => start;

    public int Set => set;

    public ulong TransmitRing => start + 0x100;

    public ulong ReceiveRing => start + 0x300;

    public ulong[] Arguments => [TransmitRing, ReceiveRing, start, Log | (Log << 8) | ((ulong)(set + 1) << 16)];

    public uint Vector => (uint)set + 1;

    public uint TransmitConsumer => rig.Word(start + 32);

    public uint Dropped => rig.Word(start + 40);

    public uint Error => rig.Word(start + 44);

    public ulong TransmitBuffer(uint index) => start + 0x1000 + ((index % Depth) * BufferSize);

    public ulong ReceiveBuffer(uint index) => start + 0x10000 + ((index % Depth) * BufferSize);

    /// <summary>Gives the adapter buffers.</summary>
    public void Post(int count, uint size = BufferSize)
    {
        for (var i = 0; i < count; i++)
        {
            Descriptor(ReceiveRing, _posted, ReceiveBuffer(_posted), size, 0);
            _posted++;
        }
        rig.SetWord(start + QueueSet.ReceiveProducerOffset, _posted);
    }

    /// <summary>Puts a descriptor into the transmit ring; <see cref="Publish"/> shows it.</summary>
    public void Add(ulong address, uint length, uint flags = 0) => Descriptor(TransmitRing, _transmitted++, address, length, flags);

    public void Publish(uint? producer = null) => rig.SetWord(start + QueueSet.TransmitProducerOffset, producer ?? _transmitted);

    /// <summary>Sends a frame, in parts when <paramref name="part"/> says so.</summary>
    public void Send(ReadOnlySpan<byte> frame, int part = BufferSize, uint flags = 0)
    {
        while (!frame.IsEmpty)
        {
            var piece = frame[..Math.Min(part, frame.Length)];
            frame = frame[piece.Length..];
            rig.WriteMemory(TransmitBuffer(_transmitted), piece);
            Add(TransmitBuffer(_transmitted), (uint)piece.Length, frame.IsEmpty ? flags : QueueSet.FlagMore);
        }
        Publish();
        rig.RingTransmit(set);
    }

    /// <summary>The next frame, waited for, and how many buffers it took.</summary>
    public (byte[] Frame, int Buffers) Receive()
    {
        Assert.True(SpinWait.SpinUntil(() => rig.Word(start + 36) != _received, TimeSpan.FromSeconds(10)), "no frame comes");
        var frame = new List<byte>();
        for (var buffers = 1; ; buffers++)
        {
            var descriptor = rig.ReadMemory(ReceiveRing + ((_received % Depth) * 16), 16);
            frame.AddRange(rig.ReadMemory(ReceiveBuffer(_received), BinaryPrimitives.ReadInt32LittleEndian(descriptor.AsSpan(8))));
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
        rig.WriteMemory(ring + ((index % Depth) * 16), bytes);
    }
}
