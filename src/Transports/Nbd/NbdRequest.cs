using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Transports.Nbd;

/// <summary>A place for one request of a connection, from its header to the last byte of its reply. Made once, used again and again.</summary>
internal sealed class NbdRequest
{
    internal NbdRequest(int place)
    {
        Place = place;
        Block = new BlockRequest(this);
    }

    /// <summary>Which place it is.</summary>
    internal int Place { get; }

    /// <summary>What the back end is asked, piece by piece.</summary>
    internal BlockRequest Block { get; }

    internal NbdCommand Command { get; private set; }

    internal ushort Flags { get; private set; }

    /// <summary>What the client knows it by.</summary>
    internal ulong Cookie { get; private set; }

    internal long Offset { get; private set; }

    internal uint Length { get; private set; }

    /// <summary>How much of it is done.</summary>
    internal long Done { get; set; }

    /// <summary>Whether the back end is making durable what was done.</summary>
    internal bool IsFlushing { get; set; }

    /// <summary>Whether zeros are written, since the back end can't make them otherwise.</summary>
    internal bool WritesZeroes { get; set; }

    internal NbdError Error { get; set; }

    /// <summary>Its payload, there and back; null for none.</summary>
    internal AlignedBuffer? Buffer { get; set; }

    /// <summary>How much of the buffer goes with the reply.</summary>
    internal int ReplyLength { get; set; }

    /// <summary>How long the reply's header is.</summary>
    internal int HeaderLength { get; set; }

    internal void Begin(NbdCommand command, ushort flags, ulong cookie, ulong offset, uint length)
    {
        Command = command;
        Flags = flags;
        Cookie = cookie;
        Offset = (long)offset;
        Length = length;
        Done = 0;
        IsFlushing = false;
        WritesZeroes = false;
        Error = NbdError.None;
        ReplyLength = 0;
    }

    internal bool Has(ushort flag) => (Flags & flag) != 0;
}
