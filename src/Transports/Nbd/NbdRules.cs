using Virtbus.Block;
using static Virtbus.Transports.Nbd.NbdProtocol;

namespace Virtbus.Transports.Nbd;

/// <summary>What a request may ask for, by what the client was told and by what the disk is at this moment.</summary>
internal static class NbdRules
{
    /// <summary>Checks a request that is not a disconnect.</summary>
    /// <param name="choice">What was agreed on.</param>
    /// <param name="info">The disk now, which may have another size than the client was told.</param>
    /// <param name="request">The request.</param>
    /// <param name="isSound">Whether the client may send it at all, so that an error is none of the protocol: only the disk's size refused it.</param>
    internal static NbdError Check(NbdChoice choice, BlockInfo info, NbdRequest request, out bool isSound)
    {
        isSound = false;
        if ((request.Flags & ~FlagsOf(choice, request.Command)) != 0 || !IsOffered(choice, request.Command))
            return NbdError.EINVAL;
        if (IsWriting(request.Command) && choice.Export.RefusesWrites)
            return NbdError.EPERM;
        if (request.Command == NbdCommand.FLUSH)
            return request.Offset == 0 && request.Length == 0 ? NbdError.None : NbdError.EINVAL;
        if (request.Command == NbdCommand.READ && request.Length > MaxPayload)
            return choice.IsStructured ? NbdError.EOVERFLOW : NbdError.EINVAL;
        if (request.Command == NbdCommand.BLOCK_STATUS && request.Length == 0)
            return NbdError.EINVAL;
        if (((request.Offset | request.Length) & (info.BlockSize - 1)) != 0)
            return NbdError.EINVAL;
        isSound = true;
        if (info.Holds(request.Offset, request.Length))
            return NbdError.None;
        return request.Command is NbdCommand.WRITE or NbdCommand.WRITE_ZEROES ? NbdError.ENOSPC : NbdError.EINVAL;
    }

    private static bool IsWriting(NbdCommand command) => command is NbdCommand.WRITE or NbdCommand.TRIM or NbdCommand.WRITE_ZEROES;

    private static bool IsOffered(NbdChoice choice, NbdCommand command) => command switch
    {
        NbdCommand.READ or NbdCommand.WRITE => true,
        NbdCommand.FLUSH => (choice.Flags & NBD_FLAG_SEND_FLUSH) != 0,
        // Of a disk that takes no writes at all the client is told that.
        NbdCommand.TRIM => (choice.Flags & (NBD_FLAG_SEND_TRIM | NBD_FLAG_READ_ONLY)) != 0,
        NbdCommand.WRITE_ZEROES => true,
        NbdCommand.BLOCK_STATUS => choice.HasAllocation,
        _ => false,
    };

    private static int FlagsOf(NbdChoice choice, NbdCommand command)
    {
        // Clients are known to say so of reads as well.
        int flags = (choice.Flags & NBD_FLAG_SEND_FUA) != 0 ? NBD_CMD_FLAG_FUA : 0;
        return command switch
        {
            NbdCommand.READ when choice.IsStructured => flags | NBD_CMD_FLAG_DF,
            NbdCommand.WRITE_ZEROES => flags | NBD_CMD_FLAG_NO_HOLE | ((choice.Flags & NBD_FLAG_SEND_FAST_ZERO) != 0 ? NBD_CMD_FLAG_FAST_ZERO : 0),
            NbdCommand.BLOCK_STATUS => flags | NBD_CMD_FLAG_REQ_ONE,
            _ => flags,
        };
    }
}
