using System.Buffers.Binary;
using Virtbus.Memory;
using static Virtbus.Tests.Trust.NicRegister;

namespace Virtbus.Tests.Trust;

/// <summary>A queue set as its driver has it: two rings of descriptors, their buffers, and the index block, in the guest's memory.</summary>
/// <param name="driver">The function's driver.</param>
/// <param name="number">Its number.</param>
/// <param name="at">Where in the driver's memory its part begins.</param>
/// <param name="vector">Its interrupt vector.</param>
internal sealed class NicQueueSet(NicDriver driver, int number, int at, int vector)
{
    public const int Slots = 1 << SlotsLog;
    public const int MaxFrame = 1500;

    /// <summary>Bytes of a receive buffer: longer frames take several.</summary>
    public const int ReceiveBuffer = 512;

    public const int MemoryNeeded = TransmitBuffersAt + (Slots * TransmitBuffer);
    private const int SlotsLog = 6;
    private const uint FlagMore = 1, FlagInterrupt = 2;
    private const int DescriptorSize = 16;
    private const int TransmitBuffer = 1536;
    private const int IndexesAt = 0;
    private const int TransmitRingAt = 64;
    private const int ReceiveRingAt = TransmitRingAt + (Slots * DescriptorSize);
    private const int ReceiveBuffersAt = ReceiveRingAt + (Slots * DescriptorSize);
    private const int TransmitBuffersAt = ReceiveBuffersAt + (Slots * ReceiveBuffer);
    private const int TransmitProducer = 0, ReceiveProducer = 4, TransmitConsumer = 32, ReceiveConsumer = 36, DroppedAt = 40, ErrorAt = 44;

    // How far the driver is.
    private readonly byte[] _frame = new byte[Slots * ReceiveBuffer];
    private uint _published;
    private uint _offered;
    private uint _taken;

    public int Number => number;

    public Iova TransmitRing => driver.AddressOf(at + TransmitRingAt);

    public Iova ReceiveRing => driver.AddressOf(at + ReceiveRingAt);

    public Iova IndexBlock => driver.AddressOf(at + IndexesAt);

    /// <summary>Sizes and vector as the command that makes the set has them.</summary>
    public ulong Sizes => SlotsLog | (SlotsLog << 8) | ((ulong)vector << 16);

    /// <summary>Descriptors that were published and not done yet.</summary>
    public int Sending => (int)(_published - driver.Read32(at + TransmitConsumer));

    /// <summary>Frames that found no buffer.</summary>
    public uint Dropped => driver.Read32(at + DroppedAt);

    /// <summary>What stopped the set; 0 while it runs.</summary>
    public uint Error => driver.Read32(at + ErrorAt);

    /// <summary>Buffers that the adapter filled.</summary>
    public uint Filled => driver.Read32(at + ReceiveConsumer);

    /// <summary>Descriptors that the adapter is done with.</summary>
    public uint Done => driver.Read32(at + TransmitConsumer);

    /// <summary>The driver's part is as before the first use.</summary>
    public void Clear()
    {
        driver.Write(at, new byte[ReceiveBuffersAt]);
        _published = _offered = _taken = 0;
    }

    /// <summary>Gives the adapter buffers, as many as there are or as are wanted.</summary>
    public void Offer(int most = Slots)
    {
        Span<byte> descriptor = stackalloc byte[DescriptorSize];
        var begin = _offered;
        for (; most > 0 && _offered - _taken < Slots; _offered++, most--)
        {
            var slot = (int)(_offered % Slots);
            BinaryPrimitives.WriteUInt64LittleEndian(descriptor, driver.AddressOf(at + ReceiveBuffersAt + (slot * ReceiveBuffer)).Value);
            BinaryPrimitives.WriteUInt32LittleEndian(descriptor[8..], ReceiveBuffer);
            BinaryPrimitives.WriteUInt32LittleEndian(descriptor[12..], 0);
            driver.Write(at + ReceiveRingAt + (slot * DescriptorSize), descriptor);
        }
        Thread.MemoryBarrier();
        if (_offered != begin)
            driver.Write32(at + ReceiveProducer, _offered);
    }

    /// <summary>Publishes a frame, in one descriptor or in two. The adapter takes it when it is rung for, or earlier.</summary>
    /// <param name="frame">The frame.</param>
    /// <param name="first">Bytes in the first descriptor; as many as the frame has for one.</param>
    /// <returns>False when there is no room.</returns>
    public bool TryPublish(ReadOnlySpan<byte> frame, int first)
    {
        if (Sending > Slots - 2)
            return false;
        // A second part lies behind the first in the same buffer.
        var buffer = (int)(_published % Slots) * TransmitBuffer;
        driver.Write(at + TransmitBuffersAt + buffer, frame);
        Describe(buffer, first, first < frame.Length ? FlagMore : FlagInterrupt);
        if (first < frame.Length)
            Describe(buffer + first, frame.Length - first, FlagInterrupt);
        Thread.MemoryBarrier();
        driver.Write32(at + TransmitProducer, _published);
        return true;

        void Describe(int offset, int length, uint flags)
        {
            Span<byte> descriptor = stackalloc byte[DescriptorSize];
            BinaryPrimitives.WriteUInt64LittleEndian(descriptor, driver.AddressOf(at + TransmitBuffersAt + offset).Value);
            BinaryPrimitives.WriteUInt32LittleEndian(descriptor[8..], (uint)length);
            BinaryPrimitives.WriteUInt32LittleEndian(descriptor[12..], flags);
            driver.Write(at + TransmitRingAt + ((int)(_published % Slots) * DescriptorSize), descriptor);
            _published++;
        }
    }

    /// <summary>Has the adapter send what was published.</summary>
    public void Ring() => driver.Ring(TransmitDoorbell + ((ulong)number * TransmitStride), 1);

    /// <summary>Takes the next frame that arrived.</summary>
    /// <param name="frame">The frame; valid until the next call.</param>
    public bool TryTake(out ReadOnlySpan<byte> frame)
    {
        var length = 0;
        var filled = driver.Read32(at + ReceiveConsumer);
        frame = default;
        Thread.MemoryBarrier();
        while (_taken != filled)
        {
            var slot = (int)(_taken++ % Slots);
            var part = (int)driver.Read32(at + ReceiveRingAt + (slot * DescriptorSize) + 8);
            var flags = driver.Read32(at + ReceiveRingAt + (slot * DescriptorSize) + 12);
            driver.Read(at + ReceiveBuffersAt + (slot * ReceiveBuffer), _frame.AsSpan(length, part));
            length += part;
            if ((flags & FlagMore) != 0)
                continue;
            frame = _frame.AsSpan(0, length);
            return true;
        }
        return length == 0 ? false : throw new DeviceFailure("the rest of a frame is missing");
    }
}
