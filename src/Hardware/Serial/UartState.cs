using System.Buffers.Binary;
using Virtbus.Platform;
using static Virtbus.Hardware.Serial.SerialRegister;

namespace Virtbus.Hardware.Serial;

/// <summary>What a <see cref="Uart16550"/> remembers, as it lies in a state: 64 bytes.</summary>
internal struct UartState
{
    public const string Section = "uart-16550";
    public const int FifoSize = 16;
    private const ushort Version = 1;
    private const int Size = 64;
    private const byte Fifo = 1, Overrun = 2, EmptyPending = 4, CharacterTimeout = 8;

    public byte Ier, Lcr, Mcr, Scr, Modem, Deltas, Trigger;
    public ushort Divisor;
    public bool HasFifo, IsOverrun, IsEmptyPending, IsTimeout;
    public byte[] Received, Errors, ToSend;

    public readonly void Write(StateWriter writer)
    {
        Span<byte> to = stackalloc byte[Size];
        to.Clear();
        (to[0], to[1], to[2], to[3], to[4], to[5], to[6]) = (Ier, Lcr, Mcr, Scr, Modem, Deltas, Trigger);
        to[7] = (byte)((HasFifo ? Fifo : 0) | (IsOverrun ? Overrun : 0) | (IsEmptyPending ? EmptyPending : 0) | (IsTimeout ? CharacterTimeout : 0));
        BinaryPrimitives.WriteUInt16LittleEndian(to[8..], Divisor);
        (to[10], to[11]) = ((byte)Received.Length, (byte)ToSend.Length);
        Received.CopyTo(to[16..]);
        Errors.CopyTo(to[32..]);
        ToSend.CopyTo(to[48..]);
        writer.Add(Section, Version, to);
    }

    public static bool TryRead(StateReader reader, out UartState state, out Fault fault)
    {
        state = default;
        if (!reader.TryTake(Section, Version, Size, Size, out var section, out fault))
            return false;
        var from = section.Content.Span;
        var capacity = (from[7] & Fifo) != 0 ? FifoSize : 1;
        if (from[0] > IER_ALL || from[2] > MCR_ALL || (from[4] & 0x0F) != 0 || from[5] > 0x0F || from[6] is not (1 or 4 or 8 or 14)
            || from[7] > (Fifo | Overrun | EmptyPending | CharacterTimeout) || from[10] > capacity || from[11] > capacity || from[12..16].ContainsAnyExcept((byte)0)
            // Of the errors only a break comes with a byte.
            || from.Slice(32, FifoSize).ContainsAnyExcept((byte)0, LSR_BI))
        {
            fault = new Fault(Errno.EINVAL, $"section '{Section}', version {section.Version}, has a value that such a port never has");
            return false;
        }
        state = new UartState
        {
            Ier = from[0],
            Lcr = from[1],
            Mcr = from[2],
            Scr = from[3],
            Modem = from[4],
            Deltas = from[5],
            Trigger = from[6],
            HasFifo = (from[7] & Fifo) != 0,
            IsOverrun = (from[7] & Overrun) != 0,
            IsEmptyPending = (from[7] & EmptyPending) != 0,
            IsTimeout = (from[7] & CharacterTimeout) != 0,
            Divisor = BinaryPrimitives.ReadUInt16LittleEndian(from[8..]),
            Received = from.Slice(16, from[10]).ToArray(),
            Errors = from.Slice(32, from[10]).ToArray(),
            ToSend = from.Slice(48, from[11]).ToArray(),
        };
        return true;
    }
}
